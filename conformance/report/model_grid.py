"""Variant × model in markdown: what the pages of whole models are made of."""

from collections.abc import Callable, Iterable, Sequence

from conformance.report.markdown import table
from conformance.terminal import numbered, reproduce, short_unit
from conformance.verdict import ORDER, Verdict, rounded_up
from conformance.whole.results import Row


def grid(rows: Iterable[Row], notes: list[str], column: Callable[[Row], str] = lambda row: row.model) -> str:
    """Verdict and largest error, one line a variant; columns are models, or whatever is said. notes: get the reasons behind its numbers."""
    everything = list(rows)
    columns = list(dict.fromkeys(map(column, everything)))
    lines = [
        [variant, *(cell([row for row in everything if (row.variant, column(row)) == (variant, name)], notes) for name in columns)]
        for variant in dict.fromkeys(row.variant for row in everything)
    ]
    return table(["variant", *columns], lines)


def cell(rows: Sequence[Row], notes: list[str]) -> str:
    """The worst verdict of some groups, and the error that is closest to its bound; "not asked" where there are none."""
    if not rows:
        return "not asked"
    verdict = worst_of(rows)
    telling = [row.shown for row in rows if row.verdict is verdict]
    shown = max(telling, key=lambda m: m.ratio)
    words = [str(verdict)]
    if shown.unit and shown.error > 0:
        words.append(f"≤ {rounded_up(shown.error)} {short_unit(shown.unit)}")
    return " ".join([*words, *numbered(telling, notes)])


def worst_of(rows: Sequence[Row]) -> Verdict:
    """The worst of those that apply."""
    return max((row.verdict for row in rows), key=ORDER.index)  # what does not apply is the least of them


def failures(rows: Iterable[Row]) -> list[str]:
    """Every group that is red, with both sides and how to run it again."""
    red = [row.shown for row in rows if row.verdict.is_red]
    return [f"**{m.variant}** on {m.case_id}, {m.what}: got {_short(m.got)}, should be {m.should}; `{reproduce(m)}`" for m in red]


def _short(text: str) -> str:
    """In one line, as far as a list has room."""
    return " ".join(text.split())[:200]
