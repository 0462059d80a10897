"""Tables as text, the same in every terminal."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from conformance.verdict import PAIR, Measurement, by_cell, peak, rounded_up, worst

WIDTH = 132
LINES = 12  # of a case with many failures, where not all cases are shown either
LONG = {
    "training of 100 steps": "hundred_steps.py",
    "compilation": "hundred_steps.py",
    "quantised": "on_quantised.py",
}  # not collected by themselves
WHOLE_MODEL = "whole model "  # before its name, the case of a check of whole models
THIRD_PARTY = "third party "  # before the page's name, what a library's layer is called as a candidate


def verdict_table(title: str, measurements: Sequence[Measurement]) -> str:
    """Rows are checks, columns are references, then the references against each other; below, the sources, and the reasons
    behind what is untested, not applicable or diverges.
    """
    own = by_cell(measurements)
    columns = list(dict.fromkeys(reference for _, reference in own))
    pairs = [column for column in columns if PAIR in column]
    notes: list[str] = []
    parts = [title]
    groups = [group for group in ([column for column in columns if column not in pairs], pairs) if group]
    parts += [rendered(_table(group, own, notes)) for group in groups]
    sources = {m.reference: m.version for m in measurements if m.version and PAIR not in m.reference}
    parts += [f"  {name}: {version}" for name, version in sources.items()]
    return "\n".join(parts + [f"  [{number}] {note}" for number, note in enumerate(notes, 1)])


def _table(columns: list[str], own: Mapping[tuple[str, str], Sequence[Measurement]], notes: list[str]) -> Table:
    table = _columns("check", *columns)
    for check in dict.fromkeys(check for check, column in own if column in columns):
        table.add_row(check, *(cell_text(own.get((check, column), ()), notes) for column in columns))
    return table


def cell_text(own: Sequence[Measurement], notes: list[str]) -> str:
    """A cell's verdict, its worst error, and the numbers of its notes, which are added to `notes`; empty if nothing was measured."""
    if not own:
        return ""
    words = [str(worst(own))]
    shown = peak(own)
    if shown.unit and shown.error > 0 and shown.evidence:
        words.append(f"{'by' if shown.verdict.is_red else '≤'} {rounded_up(shown.error)} {short_unit(shown.unit)}")
    return " ".join([*words, *numbered(own, notes)])


def numbered(measurements: Sequence[Measurement], notes: list[str]) -> list[str]:
    """The numbers of their reasons among the notes, which new ones are added to."""
    reasons = list(dict.fromkeys(m.reason for m in measurements if m.reason))
    notes += [reason for reason in reasons if reason not in notes]
    return [f"[{notes.index(reason) + 1}]" for reason in reasons]


def short_unit(unit: str) -> str:
    """A unit, short enough for a table."""
    return "×" if unit.startswith("×") else unit


def model_table(title: str, measurements: Sequence[Measurement]) -> str:
    """Rows are variants, columns are whole models: the verdict and its worst error."""
    models = list(dict.fromkeys(m.case_id for m in measurements))
    table = _columns("variant", *models)
    notes: list[str] = []
    for variant in dict.fromkeys(m.variant for m in measurements):
        own = {model: [m for m in measurements if (m.variant, m.case_id) == (variant, model)] for model in models}
        table.add_row(
            variant,
            *(cell_text(own[model], notes) for model in models),
        )
    return "\n".join([title, rendered(table), *(f"  [{number}] {note}" for number, note in enumerate(notes, 1))])


def measurement_table(measurements: Sequence[Measurement]) -> str:
    """Every measurement with its error and bound, case by case."""
    grouped: dict[str, list[Measurement]] = defaultdict(list)
    for m in measurements:
        grouped[m.case].append(m)
    parts = []
    for case, own in grouped.items():
        table = _columns("what", "verdict", "error", "bound", "unit", "remark")
        for m in own:
            numbers = [rounded_up(m.error), f"{m.bound:.2g}", m.unit] if m.unit else ["", "", ""]
            remark = f"got {m.got}, should be {m.should}" if m.verdict.is_red else m.reason
            table.add_row(m.what, m.verdict, *numbers, remark)
        parts += [case, rendered(table)]
    return "\n".join(part for part in parts if part)


def failure_table(measurements: Sequence[Measurement], most: int | None = None) -> str:
    """All red measurements of a check, case by case: what, got, should be; and how to run each again.

    most: show so many cases and count the others.
    """
    red: dict[str, list[Measurement]] = defaultdict(list)
    for m in measurements:
        if m.verdict.is_red:
            red[m.case].append(m)
    first = next(iter(red.values()))[0]
    parts = [f"{first.variant}: {first.check} of {first.candidate} against {first.reference.split(PAIR)[-1]}"]
    for case, failing in list(red.items())[:most]:
        table = _columns("what", "got", "should be")
        shown = failing if most is None else failing[:LINES]
        for m in shown:
            table.add_row(m.what, m.got or m.verdict, m.should)
        if len(shown) < len(failing):
            table.add_row(f"… and {len(failing) - len(shown)} more")
        parts += [case, rendered(table), f"again: {reproduce(failing[0])}\n"]
    if most is not None and len(red) > most:
        parts.append(f"… and {len(red) - most} more cases; all are among the measurements")
    return "\n".join(part for part in parts if part)


def reproduce(m: Measurement) -> str:
    """The one command that makes this measurement again."""
    if m.case.startswith(WHOLE_MODEL):
        return f'python -m pytest conformance/whole{LONG.get(m.check, "")} -k "{test_name(m.check)}[{m.variant}-{m.case_id}]"'
    generated = m.check == "shape sweep"  # no grid has such a case: it is told in full
    name = m.case if generated else m.case_id
    if m.candidate == "yours":
        case = f', case="{name}"' if name else ""
        return f'print(certify(…, "{m.variant}", …, checks=["{m.check}"]{case}))'
    if m.candidate.startswith(THIRD_PARTY):
        case = f' --case "{name}"' if name else ""
        return f'python -m conformance third-party {m.candidate.removeprefix(THIRD_PARTY)} --check "{m.check}"{case}'
    id_ = f"{m.variant}/{cell_id(m.reference, m.check)}" + (f"/{name}" if name else "")
    return f'python -m conformance reproduce "{id_}"'


def test_name(check: str) -> str:
    """The test function of a check of whole models."""
    return f"test_{check}".replace(" ", "_")


def cell_id(reference: str, check: str) -> str:
    """A cell's name, fit for `pytest -k`."""
    return f"{reference}-{check}".replace(PAIR, "_vs_").replace(" ", "_")


def _columns(*titles: str) -> Table:
    table = Table(box=SIMPLE)
    for title in titles:
        table.add_column(title, overflow="fold")  # long words are wrapped, nothing is cut
    return table


def rendered(table: Table) -> str:
    """A table as plain text."""
    text = io.StringIO()
    console = Console(
        file=text, width=WIDTH, color_system=None, markup=False, highlight=False, emoji=False,
        force_terminal=False, force_jupyter=False, _environ={},
    )  # fmt: skip
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
