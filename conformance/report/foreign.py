"""The page and the badge of a layer that is not lite's, in a folder of its owner's."""

from pathlib import Path

from conformance.certificate import Certificate
from conformance.report import badges
from conformance.report.markdown import bullets, section
from conformance.report.sections import commands, footnotes, grid, made_with, open_points, opening
from conformance.report.summary import Summary
from conformance.verdict import Verdict


def write(folder: Path, name: str, certificate: Certificate, machine: dict[str, str]) -> Path:
    """Write FOLDER/NAME.md, and the badge that it shows as FOLDER/badges/NAME.svg and as shields' endpoint. Returns the page's path.

    Raises OSError if it cannot.
    """
    summary = Summary(certificate, name=name)
    written = folder / f"{name}.md"
    pages = {
        written: page(summary, machine),
        folder / "badges" / f"{name}.json": badges.endpoint(summary),
        folder / "badges" / f"{name}.svg": badges.svg(summary),
    }
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return written


def page(summary: Summary, machine: dict[str, str], *introduction: str) -> str:
    """All sections, in markdown. introduction: paragraphs that say whose it is."""
    notes: list[str] = []
    parts = [
        f"# {summary.label}: is it {summary.variant}?",
        *introduction,
        opening(summary),
        section("Verdict table", grid(summary.certificate, notes), footnotes(notes)),
        section("Divergences", _divergences(summary)),
        section("What to fix next", open_points(summary.certificate)),
        *(
            [section("Failures", *(f"```\n{text}\n```" for text in failures))]
            if (failures := summary.certificate.failures(most=4))
            else []
        ),
        section("Reproduce", commands(summary.certificate), made_with(machine)),
    ]
    return "\n\n".join(parts) + "\n"


def _divergences(summary: Summary) -> str:
    reasons = dict.fromkeys(m.reason for m in summary.certificate if m.verdict is Verdict.DIVERGES)
    return bullets(reasons, "None is documented.")
