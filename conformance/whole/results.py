"""What the checks of whole models came to: a run's own in its folder, the committed ones, shortened, beside their pages."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.verdict import GROUP, Measurement, Verdict, peak, worst

RUN, FILE = "whole.jsonl", "whole.json"


@dataclass(frozen=True)
class Row:
    """A group of a cell's measurements. shown: the one that is closest to its bound, or beyond."""

    variant: str
    model: str
    group: str
    verdict: Verdict
    count: int
    shown: Measurement

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the measurement only what is not empty."""
        shown = {name: value for name, value in self.shown.to_dict().items() if value not in ("", 0.0, True)}
        return {"group": self.group, "verdict": str(self.verdict), "count": self.count, "shown": shown}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Row":
        """Read `to_dict` back."""
        shown = Measurement.from_dict(values["shown"])
        return cls(shown.variant, shown.case_id, values["group"], Verdict(values["verdict"]), values["count"], shown)


@dataclass(frozen=True)
class Sheet:
    """One check on all models. complete: whether all of its cells ran."""

    check: str
    complete: bool
    machine: dict[str, str]
    rows: tuple[Row, ...]

    def cell(self, variant: str, model: str) -> tuple[Row, ...]:
        """What was measured there."""
        return tuple(row for row in self.rows if (row.variant, row.model) == (variant, model))


def summed_up(measurements: Iterable[Measurement]) -> tuple[Row, ...]:
    """A row for each group of each cell, in their order."""
    grouped: dict[tuple[str, str, str], list[Measurement]] = {}
    for m in measurements:
        grouped.setdefault((m.variant, m.case_id, m.what.partition(GROUP)[0]), []).append(m)
    return tuple(Row(*place, worst(own), len(own), peak(own)) for place, own in grouped.items())


def write(folder: Path, check: str, size: int, machine: dict[str, str], cells: Mapping[int, Sequence[Measurement]]) -> None:
    """Put a check's measurements into a run's folder, in the place of older ones of the same check; OSError if it cannot be written.

    size: how many cells it has. cells: place → measurements, of those that ran.
    """
    told = {str(place): [m.to_dict() for m in own] for place, own in sorted(cells.items())}
    try:
        others = [old for old in _lines(folder) if old["check"] != check]
    except (ValueError, KeyError, TypeError):
        others = []  # a damaged file is made anew
    _keep(folder, [*others, {"check": check, "size": size, "machine": machine, "cells": told}])


def merge(folders: Sequence[Path], into: Path) -> None:
    """Put the cells of several runs into one folder; ValueError for one that ran twice."""
    merged: dict[str, dict[str, Any]] = {}
    for line in (line for folder in folders for line in _lines(folder)):
        there = merged.setdefault(line["check"], line | {"cells": {}})
        if twice := sorted(there["cells"].keys() & line["cells"].keys()):
            raise ValueError(f"{line['check']}: {len(twice)} cells are in two of {', '.join(map(str, folders))}")
        there["cells"] = dict(sorted((there["cells"] | line["cells"]).items(), key=lambda cell: int(cell[0])))
    if merged:
        _keep(into, list(merged.values()))


def _keep(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sorted(lines, key=lambda line: str(line["check"])))
    (folder / RUN).write_text(text, encoding="utf-8", newline="\n")


def read_run(folder: Path) -> dict[str, Sheet]:
    """Check → what a run measured; empty without a run, ValueError if it is damaged."""
    try:
        return {
            line["check"]: Sheet(
                line["check"],
                len(line["cells"]) == line["size"],
                line["machine"],
                summed_up(Measurement.from_dict(m) for own in line["cells"].values() for m in own),
            )
            for line in _lines(folder)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RUN} is damaged ({error}); make it again with: nox -s conformance") from error


def _lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / RUN
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.is_file() else []


def to_json(sheets: dict[str, Sheet]) -> str:
    """The text of `whole.json`, a row a line."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    told = [
        f'{text(check)}: {{"machine": {text(sheet.machine)}, "rows": [\n'
        + ",\n".join(text(row.to_dict()) for row in sheet.rows)
        + "\n]}"
        for check, sheet in sorted(sheets.items())
    ]
    return "{" + ",\n".join(told) + "}\n"


def read(reports: Path) -> dict[str, Sheet]:
    """Check → what is committed; empty if there is nothing, ValueError if it is damaged."""
    path = reports / FILE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {
            check: Sheet(check, True, told["machine"], tuple(map(Row.from_dict, told["rows"]))) for check, told in values.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); render it again with: nox -s report") from error


def current(run: Path | None, reports: Path) -> dict[str, Sheet]:
    """The complete sheets of a run, and the committed ones of all other checks."""
    new = {check: sheet for check, sheet in (read_run(run) if run else {}).items() if sheet.complete}
    return dict(sorted((read(reports) | new).items()))


def changes(run: Path, reports: Path) -> list[str]:
    """Where a run's complete sheets and the committed ones of the same checks have other verdicts; equal bits may be so by luck."""
    committed = read(reports)
    found = []
    for check, sheet in read_run(run).items():
        before, now = _verdicts(committed.get(check)), _verdicts(sheet)
        for place in {**before, **now} if sheet.complete and before else ():
            was, is_ = before.get(place, "nothing"), now.get(place, "nothing")
            if was != is_:
                found.append(f"{check}, {place}: committed {was!r}, now {is_!r}")
    return found


def _verdicts(sheet: Sheet | None) -> dict[str, str]:
    same = {Verdict.IDENTICAL: Verdict.EQUIVALENT}
    rows = sheet.rows if sheet else ()
    return {f"{row.variant} on {row.model}, {row.group}": str(same.get(row.verdict, row.verdict)) for row in rows}
