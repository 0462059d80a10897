"""Sections that the page of any certificate has."""

from collections.abc import Mapping

from conformance.certificate import Certificate
from conformance.report.markdown import anchor, bullets, table
from conformance.report.summary import Summary
from conformance.terminal import cell_text, reproduce
from conformance.verdict import PAIR, Verdict, by_cell, peak

WORST_FIRST = [Verdict.ERROR, Verdict.FAILS, Verdict.CAPPED, Verdict.UNTESTED]


def opening(summary: Summary) -> str:
    """The badge, the verdict, and what it rests on."""
    backing = bullets((f"**{name}**: {version}" for name, version in summary.references.items()), "")
    measurements, cases, real = summary.counts
    counts = f"{measurements} measurements in {cases} cases, {real} of them on pretrained weights with real activations."
    gaps = bullets((f"doc gap: {gap}" for gap in summary.certificate.doc_gaps), "")
    blind = bullets((f"**void**: a {line}" for line in summary.blind), "")
    badge = f"![{summary.label}: {summary.verdict}](badges/{summary.label}.svg)"
    return "\n\n".join(part for part in (badge, f"**{summary.verdict}**. {counts} Backed by", backing, gaps, blind) if part)


def grid(certificate: Certificate, notes: list[str], *, pairs: bool = False) -> str:
    """The verdict table, each cell linked to its command. pairs: of the references among themselves. notes: get the reasons behind its numbers."""
    own = by_cell(certificate)
    columns = [column for column in dict.fromkeys(m.reference for m in certificate) if (PAIR in column) is pairs]
    rows = []
    for check in dict.fromkeys(check for check, column in own if column in columns):
        cells = []
        for column in columns:
            text = cell_text(own.get((check, column), ()), notes)
            cells.append(f"[{text.partition(' [')[0]}](#{anchor(check, column)}) {_brackets(text)}".strip() if text else "")
        rows.append([check, *cells])
    return table(["check", *columns], rows)


def _brackets(text: str) -> str:
    return " ".join(part for part in text.split() if part.startswith("[") and part.endswith("]"))


def footnotes(notes: list[str]) -> str:
    """What the numbers in brackets stand for."""
    return "\n".join(f"[{number}] {note}  " for number, note in enumerate(notes, 1))


def open_points(certificate: Certificate) -> str:
    """What is red, capped or untested, the worst first."""
    ranked = sorted(
        ((WORST_FIRST.index(verdict), check, reference, verdict) for (check, reference), verdict in certificate.cells.items() if verdict in WORST_FIRST),
        key=lambda row: row[0],
    )  # fmt: skip
    lines = [
        f"**{check}** against {reference}: {verdict} ([how to repeat it](#{anchor(check, reference)}))"
        for _, check, reference, verdict in ranked
    ]
    lines += [f"doc gap: {gap}" for gap in certificate.doc_gaps]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) or "Nothing is open."


def commands(certificate: Certificate) -> str:
    """One command per cell, for the measurement that the table shows."""
    rows = []
    for check, reference in certificate.cells:
        own = [m for m in certificate if (m.check, m.reference) == (check, reference)]
        shown = peak(own)
        rows.append([f'<a id="{anchor(check, reference)}"></a>{check}', reference, shown.what, f"`{reproduce(shown)}`"])
    return table(["check", "reference", "largest error", "command"], rows)


def made_with(machine: Mapping[str, str]) -> str:
    """Versions and machine."""
    return "Made with " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."
