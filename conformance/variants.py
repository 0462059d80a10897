"""The names of the variants that have a suite. Imports nothing heavy: the pytest plugin asks at start-up."""

from collections.abc import Iterable
from pathlib import Path


def known() -> list[str]:
    """In alphabetical order."""
    return sorted(path.stem.removeprefix("test_") for path in (Path(__file__).parent / "suites").glob("test_*.py"))


def suite_file(variant: str) -> Path:
    """The file of a variant's suite."""
    return Path(__file__).parent / "suites" / f"test_{variant}.py"


def check_known(names: Iterable[str]) -> None:
    """ValueError that lists the known ones if a name is not among them."""
    if unknown := [name for name in names if name not in known()]:
        raise ValueError(f"unknown variant {', '.join(map(str, unknown))}; known: {', '.join(known())}")
