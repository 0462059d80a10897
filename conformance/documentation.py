"""What a candidate says about itself, and what it leaves unsaid. Doc gaps are found here, never written by hand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
SECTIONS = ("Identity at init", "Departures", "Sources")


@dataclass(frozen=True, slots=True, kw_only=True)
class Documentation:
    """A variant's header and its options.

    title, equation: the header's first line and its formula. sections: its further parts, by the names above.
    header: the whole of it. location: file and lines of the forward.
    options: own option of the config → its line in the config's docstring, or None.
    """

    title: str
    equation: str
    sections: dict[str, str]
    header: str
    location: str
    options: dict[str, str | None]


def parse(header: str, location: str, docstring: str, options: Sequence[str]) -> Documentation:
    """Read a header and a config's docstring.

    The header is a title, the formula, then paragraphs that start with `Identity at init:`, `Departures:` and `Sources:`.
    The docstring describes an option on a line `name: what it is`.
    """
    title, _, body = header.strip().partition("\n")
    formula, *rest = re.split(rf"^({'|'.join(SECTIONS)}):", body, flags=re.MULTILINE)
    described = dict(re.findall(r"^\s*(\w+): (.+)$", docstring, flags=re.MULTILINE))
    return Documentation(
        title=title,
        equation=formula.strip(),
        sections={name: " ".join(text.split()) for name, text in zip(rest[::2], rest[1::2], strict=True)},
        header=header,
        location=location,
        options={name: described.get(name) for name in options},
    )


def mentions(header: str, id_: str) -> bool:
    """Whether a header speaks of a divergence."""
    return re.search(rf"\b{re.escape(id_)}\b", header) is not None


def gaps(variant: str, documentation: Documentation, divergences: Sequence[str], readme: Path = README) -> list[str]:
    """What the header, the config's docstring and README's table do not mention; README counts in a checkout only.

    divergences: the ids of the suite's.
    """
    found = [f"the header has no paragraph `{name}:`" for name in SECTIONS if name not in documentation.sections]
    found += [f"option `{name}` is not in the config's docstring" for name, line in documentation.options.items() if line is None]
    found += [f"divergence {id_} is not in the header" for id_ in divergences if not mentions(documentation.header, id_)]
    if readme.is_file() and not re.search(rf"^\| `{variant}` \|", readme.read_text(encoding="utf-8"), flags=re.MULTILINE):
        found.append(f"README's table of variants has no row `{variant}`")
    return found
