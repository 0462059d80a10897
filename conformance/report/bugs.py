"""The page of known bugs: what was planted, and which checks see it."""

from collections.abc import Sequence

from conformance.checks import CHECKS
from conformance.known_bugs import BUGS
from conformance.report.markdown import section, table
from conformance.report.summary import Summary
from conformance.verdict import Verdict

INTRODUCTION = """A verdict is worth as much as the bugs it would have caught. Each of these was planted in `lite/`, in process, by a replacement that
occurs once; the suite has to turn exactly the checks red that stand beside it, and one of them has to say what the bug is about.
`nox -s bugs` plants them all again and fails on a bug that survives, on another set of checks, on a check that no bug turns red, on a
pair of variant and check that none reaches, and on anything red without a bug."""


def page(summaries: Sequence[Summary]) -> str:
    """All sections, in markdown. summaries: of the full run, which says what can be asked of a variant."""
    listed = [section(s.variant, _list(s.variant)) for s in summaries]
    parts = ["# Known bugs", INTRODUCTION, section("How many bugs turn a check red", _matrix(summaries)), *listed]
    return "\n\n".join(parts) + "\n"


def _matrix(summaries: Sequence[Summary]) -> str:
    variants = [s.variant for s in summaries]
    rows = [[check, *(_count(s, check) for s in summaries)] for check in CHECKS]
    total = ["all", *(str(sum(bug.variant == variant for bug in BUGS)) for variant in variants)]
    return table(["check", *variants], [*rows, total]) + "\n\nA dash: nothing to ask there."


def _count(summary: Summary, check: str) -> str:
    cells = [verdict for (name, _), verdict in summary.certificate.cells.items() if name == check]
    if all(verdict is Verdict.NOT_APPLICABLE for verdict in cells):
        return "–"
    return str(sum(check in bug.red for bug in BUGS if bug.variant == summary.variant))


def _list(variant: str) -> str:
    rows = [
        [
            f"`{bug.id}`",
            bug.description,
            bug.effect,
            bug.source,
            bug.hidden_by,
            ", ".join(name for name in CHECKS if name in bug.red),
        ]
        for bug in BUGS
        if bug.variant == variant
    ]
    return table(["id", "what is wrong", "effect", "source", "hidden by", "turns red"], rows)
