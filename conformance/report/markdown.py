"""Pieces of markdown."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def section(title: str, *parts: str) -> str:
    """A second-level section; empty parts are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


def bullets(lines: Iterable[str], otherwise: str) -> str:
    """A list, or a sentence if there is nothing to list."""
    return "\n".join(f"- {line}" for line in lines) or otherwise


def anchor(check: str, reference: str) -> str:
    """The name of a cell within its page."""
    return f"{check}-{reference}".replace(" – ", "-").replace(" ", "-")
