"""What a search came to: for every variant and reference the cases that come closest to their bounds, and those that break them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.verdict import Measurement, rounded_up
from refs.case import Case

FILE = "search.json"


@dataclass
class Found:
    """Of one variant against one reference.

    version: of the reference. missing: why it could not be run at all.
    cases: how many different ones were measured; edges: with a size or rank of one; threads: with two torch threads.
    closest: the largest error of each quantity, in units of its bound. alarms: what is beyond it, or raised.
    """

    variant: str
    reference: str
    version: str
    missing: str = ""
    cases: int = 0
    edges: int = 0
    threads: int = 0
    closest: list[Measurement] = field(default_factory=list)
    alarms: list[Measurement] = field(default_factory=list)
    _known: set[Case] = field(default_factory=set, repr=False)

    @property
    def worst(self) -> Measurement | None:
        """The one that is closest to its bound, alarms first."""
        return max(self.alarms or self.closest, key=lambda m: m.ratio, default=None)

    @property
    def closeness(self) -> str:
        """How close that is, for tables."""
        return "alarm" if self.alarms else f"≤ {rounded_up(self.worst.ratio)}" if self.worst else ""

    def add(self, cases: Iterable[Case], measurements: Iterable[Measurement]) -> None:
        """What one more round measured."""
        new = set(cases) - self._known
        self._known |= new
        self.cases += len(new)
        self.edges += sum(1 in (case.d_in, case.d_out, case.rank) for case in new)
        self.threads += sum(case.threads > 1 for case in new)
        best = {m.what: m for m in self.closest}
        for m in measurements:
            if m.verdict.is_red or m.ratio > 1:  # what is capped elsewhere is an alarm here, too
                self.alarms.append(m)
            elif m.what not in best or m.ratio > best[m.what].ratio:
                best[m.what] = m
        self.closest = [best[what] for what in sorted(best)]


@dataclass(frozen=True)
class Searched:
    """Of a whole search: what was asked for, what was found, what it was made with."""

    seed: int
    largest: int
    asked: int
    found: tuple[Found, ...]
    machine: dict[str, str]

    @property
    def cases(self) -> int:
        """How many were measured, each counted once for each reference."""
        return sum(entry.cases for entry in self.found)

    @property
    def alarms(self) -> list[Measurement]:
        """All of them."""
        return [m for entry in self.found for m in entry.alarms]

    def is_complete(self, variants: Iterable[str]) -> bool:
        """Whether it is a whole search of these variants, that was neither narrowed nor cut short."""
        return self.cases >= self.asked and {entry.variant for entry in self.found} >= set(variants)


def write(folder: Path, findings: Searched) -> None:
    """As `search.json` in a folder that is there."""
    (folder / FILE).write_text(to_json(findings), encoding="utf-8", newline="\n")


def read(folder: Path) -> Searched | None:
    """What `write` wrote, None if there is nothing; ValueError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return _from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make it again with: nox -s search") from error


def to_json(findings: Searched) -> str:
    """The text of `search.json`."""
    entries = [
        {name: value for name, value in vars(entry).items() if not name.startswith("_")}
        | {kind: [m.to_dict() for m in getattr(entry, kind)] for kind in ("closest", "alarms")}
        for entry in findings.found
    ]
    return json.dumps(vars(findings) | {"found": entries}, indent=1, ensure_ascii=False) + "\n"


def _from_dict(values: dict[str, Any]) -> Searched:
    entries = (
        Found(**entry | {kind: [Measurement.from_dict(m) for m in entry[kind]] for kind in ("closest", "alarms")})
        for entry in values["found"]
    )
    return Searched(**values | {"found": tuple(entries)})
