"""What a run over several releases came to, as it is kept beside its page."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conformance.drift.compare import Change

FILE = "drift.json"


@dataclass(frozen=True)
class Row:
    """One release. problem: why it could not be run at all. The others as in `recorded.Release`."""

    version: str
    problem: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    divergences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drift:
    """All releases, oldest first, what changed from each that ran to the next, and the machine."""

    releases: tuple[Row, ...]
    changes: tuple[Change, ...]
    machine: dict[str, str]

    def is_complete(self, versions: Iterable[str]) -> bool:
        """Whether these releases were all tried."""
        return {row.version for row in self.releases} >= set(versions)


def to_json(drift: Drift) -> str:
    """The text of `drift.json`."""
    return json.dumps(asdict(drift), indent=1, ensure_ascii=False) + "\n"


def read(folder: Path) -> Drift | None:
    """What lies there, None if there is nothing; ValueError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in values["releases"])
        return Drift(rows, tuple(Change(**change) for change in values["changes"]), values["machine"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make it again with: nox -s drift") from error
