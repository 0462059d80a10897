"""Pages of the layers of other libraries, and their index. All are made of the data beside them."""

from pathlib import Path

from conformance.findings import FINDINGS
from conformance.report import badges, foreign
from conformance.report.markdown import section, table
from conformance.report.summary import Summary
from conformance.third_party import Layer, Library, libraries
from conformance.third_party_run import FOLDER, Certified, read, to_json

INDEX = f"{FOLDER}/README.md"
INTRODUCTION = """Layers of libraries on PyPI, each judged by the suite of the method that it claims to be, in an environment of its own.
`nox -s third-party` makes the environments, certifies and runs the scripts of the bugs found (`-- torchtune` for one library);
`nox -s report` renders these pages from what came out. README of the project says how to read a verdict."""


def pages(reports: Path, run: Path | None) -> dict[Path, str]:
    """The index, and of every layer that was certified its data, page and badges. run: a folder whose data come before the committed ones.

    Raises ValueError if data are damaged.
    """
    made: dict[Path, str] = {}
    rows = []
    folder = reports / FOLDER
    for library in libraries():
        for layer in library.layers:
            if kept := (run and read(run, layer.page)) or read(reports, layer.page):
                summary = Summary(kept.certificate, name=layer.page, counted=kept.counted)
                made[folder / f"{layer.page}.json"] = to_json(kept)
                made[folder / f"{layer.page}.md"] = foreign.page(
                    summary, kept.made_with, _about(library, layer, kept), _bugs(layer)
                )
                made[folder / "badges" / f"{layer.page}.json"] = badges.endpoint(summary)
                made[folder / "badges" / f"{layer.page}.svg"] = badges.svg(summary)
                rows.append(_row(library, layer, kept, summary))
    return {folder / "README.md": _index(rows)} | made if rows else {}


def _about(library: Library, layer: Layer, kept: Certified) -> str:
    with_ = ", ".join(f"{name} {kept.made_with[name]}" for name in library.pins)
    return f"`{layer.what}` of [{library.name}]({library.link}) ({library.licence}), certified with {with_}. [All libraries](README.md)."


def _bugs(layer: Layer) -> str:
    found = [f"[{finding.title}](../upstream.md#{finding.id})" for finding in FINDINGS if finding.page == layer.page]
    return f"Red because of: {'; '.join(found)}." if found else "No bug turns it red."


def _row(library: Library, layer: Layer, kept: Certified, summary: Summary) -> list[str]:
    bugs = [f"[{finding.id}](../upstream.md#{finding.id})" for finding in FINDINGS if finding.page == layer.page]
    return [
        f"[{library.name}]({library.link})",
        kept.made_with[library.name],
        f"[{layer.page}]({layer.page}.md)",
        layer.variant,
        f"![{summary.verdict}](badges/{layer.page}.svg)",
        ", ".join(bugs) or "none",
        ", ".join(summary.divergences) or "none",
    ]


def _index(rows: list[list[str]]) -> str:
    header = ["library", "release", "layer", "claims to be", "verdict", "bugs", "documented differences"]
    parts = [
        "# Other libraries",
        INTRODUCTION,
        table(header, rows),
        *(section(library.name, *_library(library)) for library in libraries()),
    ]
    return "\n\n".join(parts) + "\n"


def _library(library: Library) -> tuple[str, ...]:
    others = [f"[{finding.title}](../upstream.md#{finding.id})" for finding in FINDINGS if finding.library == library.name]
    return (
        " ".join((library.about or "").split()),
        f"Installed as `pip install {' '.join(library.requirements)}`.",
        f"Bugs found in it: {'; '.join(others)}." if others else "",
    )
