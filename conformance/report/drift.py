"""The page of the releases: variant × release, and what changed from one to the next."""

from conformance.drift.results import Drift, Row
from conformance.report.markdown import bullets, section, table
from conformance.report.sections import made_with

INTRODUCTION = """Does another release of peft compute something else? Every release is run on the suites' small cases: the start of every parameter, forward outputs,
every gradient, and the weight after merging and unmerging, on the same numbers and seeds. Each is compared with the release before, bit for bit,
and judged beside lite. A suite runs against any of them: `nox -s conformance -- --peft 0.18.1`."""
NO_CHANGE = "None: bit for bit the same in all releases."


def page(drift: Drift) -> str:
    """In markdown."""
    names = ["equivalent", "identical"]
    good = f"A dash: the release has no such method. Bold: something changed since the release before; {' and '.join(names)} are one verdict here."
    parts = [
        "# Drift between releases of peft",
        INTRODUCTION,
        section("Verdict of lite beside each release", table(*_grid(drift)), good),
        section("What changed", table(CHANGED, _changed(drift)) if drift.changes else NO_CHANGE),
        section("Red beside lite", bullets(_failures(drift), "Nothing.")),
        section("Documented divergences by release", table(*_divergences(drift))),
        section("Releases that could not be run", bullets(_problems(drift), "None.")),
        section("Reproduce", "`nox -s drift`, or `nox -s drift -- 0.20.0 0.21.2` for two of them.", made_with(drift.machine)),
    ]
    return "\n\n".join(parts) + "\n"


def text(drift: Drift) -> str:
    """For the terminal: what changed, what is red, what could not be run."""
    lines = [f"{' '.join(row[:-1])}: {row[-1]}" for row in _changed(drift)]
    return "\n".join([f"{len(drift.releases)} releases", *(lines or [NO_CHANGE]), *_failures(drift), *_problems(drift)])


CHANGED = ["from", "to", "variant", "against", "what", "cases", "most on", "size"]


def _changed(drift: Drift) -> list[list[str]]:
    return [
        [c.before, c.after, c.variant, c.reference, c.what, str(c.cases), f"`{c.case}`", c.size]
        for c in sorted(drift.changes, key=lambda c: [row.version for row in drift.releases].index(c.after))
    ]


def _grid(drift: Drift) -> tuple[list[str], list[list[str]]]:
    ran = [row for row in drift.releases if not row.problem]
    variants = sorted({variant for row in ran for variant in row.verdicts})
    rows = [[variant, *(_cell(drift, row, variant) for row in ran)] for variant in variants]
    return ["variant", *(row.version for row in ran)], rows


def _cell(drift: Drift, row: Row, variant: str) -> str:
    verdict = row.verdicts.get(variant, "–").replace("identical", "equivalent")
    changed = any((c.variant, c.after) == (variant, row.version) for c in drift.changes)
    return f"**{verdict}**" if changed else verdict


def _failures(drift: Drift) -> list[str]:
    """Per variant and failed cell, the releases in which it failed."""
    seen: dict[str, list[str]] = {}
    for row in drift.releases:
        for variant, failures in row.failures.items():
            for failure in failures:
                seen.setdefault(f"{variant}: {failure}", []).append(row.version)
    return [f"{failure} ({', '.join(versions)})" for failure, versions in seen.items()]


def _divergences(drift: Drift) -> tuple[list[str], list[list[str]]]:
    ran = [row for row in drift.releases if not row.problem]
    ids = sorted({id_ for row in ran for id_ in row.divergences})
    return ["divergence", *(row.version for row in ran)], [
        [id_, *("there" if id_ in row.divergences else "" for row in ran)] for id_ in ids
    ]


def _problems(drift: Drift) -> list[str]:
    return [f"{row.version}: {row.problem}" for row in drift.releases if row.problem]
