"""The pages of whole models, by file: a page for each kind of check, where it was ever run."""

from collections.abc import Callable, Mapping

from conformance.report import interop, models, quantised, training
from conformance.whole.results import Sheet

Sheets = Mapping[str, Sheet]  # check → what was measured
# File → (title, (sheets) → its text, or "" where its checks were never run).
PAGES: dict[str, tuple[str, Callable[[Sheets], str]]] = {
    "models.md": ("outputs and gradients", models.page),
    "training.md": ("training", training.page),
    interop.FILE: (interop.TITLE, interop.page),
    quantised.FILE: (quantised.TITLE, quantised.page),
}


def pages(sheets: Sheets) -> dict[str, str]:
    """File → text."""
    return {name: text for name, (_, page) in PAGES.items() if (text := page(sheets))}


def lines(sheets: Sheets) -> list[str]:
    """What the index of all pages says of these."""
    there = [f"[{PAGES[name][0]}]({name})" for name in pages(sheets)]
    return [f"Whole models: {', '.join(there)}."] if there else []
