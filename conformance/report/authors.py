"""The page of the authors' layers: where their code, peft, the paper and lite agree, and by how much they do not."""

from collections.abc import Sequence

from conformance.certificate import Certificate
from conformance.report.markdown import section, table
from conformance.report.sections import footnotes
from conformance.report.summary import Summary
from conformance.suite import Reference, Suite
from conformance.suite_of import suite_of
from conformance.terminal import cell_text
from conformance.verdict import PAIR, by_cell
from refs.authors.layer import AuthorLayer

INTRODUCTION = """peft is one reading of a method, its authors' code another, and the paper a third. Each author's layer runs at a pinned commit, in a process
of its own that writes down outputs and gradients; where no checkout is at hand, the recorded traces of that commit serve (`recorded` below).
No line of that code is here. Each row compares it with the three others on the same numbers; a difference is documented, with its size, or it is red.
`nox -s refs` gets the repositories and verifies every file that is run, `nox -s record` runs them again and fails if a trace would change."""


def page(summaries: Sequence[Summary]) -> str:
    """A table of the layers, then a section for each variant that has one."""
    found = [(s, suite_of(s.variant)) for s in summaries]
    there = [(s, suite, _layers(suite)) for s, suite in found if _layers(suite)]
    rows = [_provenance(s, layer) for s, _, layers in there for layer in layers]
    header = ["variant", "column", "repository", "commit", "licence", "layer", "how"]
    sections = [section(s.variant, *_compared(s.certificate, suite, layers)) for s, suite, layers in there]
    none = ", ".join(s.variant for s, suite in found if not _layers(suite))
    rest = f"Without an author's layer here: {none}." if none else ""
    return (
        "\n\n".join(part for part in ("# peft against author", INTRODUCTION, table(header, rows), rest, *sections) if part) + "\n"
    )


def _layers(suite: Suite) -> list[AuthorLayer]:
    return [reference for reference in suite.references if isinstance(reference, AuthorLayer)]


def _provenance(summary: Summary, layer: AuthorLayer) -> list[str]:
    about = layer.manifest
    place = f"[{about.folder}]({about.repository})"
    how = layer.version.rpartition(", ")[2]
    return [summary.variant, layer.name, place, f"`{about.commit[:12]}`", about.licence, about.where, how]


def _compared(certificate: Certificate, suite: Suite, layers: Sequence[AuthorLayer]) -> list[str]:
    """Rows are checks; for each layer a column beside lite, and one beside every reference that is no author's."""
    others = [reference for reference in suite.all_references if not isinstance(reference, AuthorLayer)]
    own = by_cell(certificate)
    columns = [(layer, other) for layer in layers for other in (None, *others)]
    names = [_column(layer, other, {reference for _, reference in own}) for layer, other in columns]
    checks = dict.fromkeys(check for check, reference in own if reference in names)
    notes: list[str] = []
    rows = [[check, *(cell_text(own.get((check, name), ()), notes) for name in names)] for check in checks]
    header = ["check", *(f"{layer.name} – {other.name if other else 'lite'}" for layer, other in columns)]
    equations = [[layer.name, f"`{layer.equation}`"] for layer in layers]
    return [table(["layer", "computes"], equations), table(header, rows), footnotes(notes)]


def _column(layer: AuthorLayer, other: Reference | None, there: set[str]) -> str:
    """What a verdict table calls it: the layer beside lite, or a pair in either order."""
    if other is None:
        return layer.name
    one, reverse = f"{layer.name}{PAIR}{other.name}", f"{other.name}{PAIR}{layer.name}"
    return one if one in there else reverse
