"""The releases that are compared."""

# All since 0.15, the first that has every method of the first suites.
RELEASES = ("0.15.0", "0.15.1", "0.15.2", "0.16.0", "0.17.0", "0.17.1", "0.18.0", "0.18.1", "0.19.0", "0.19.1", "0.20.0", "0.21.0", "0.21.1", "0.21.2")  # fmt: skip
MEASURED = f">={RELEASES[0]},<={RELEASES[-1]}"
