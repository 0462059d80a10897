"""What was timed: a file for each cell in the run's folder, and all of them, shortened, beside the page."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conformance import run_folder
from conformance.bench import suites
from conformance.bench.cell import Cell, cells
from conformance.bench.suites import Suites

FOLDER, FILE = "bench", "performance.json"  # below the folder of a run; beside the page
CELLS = "layers"
LAYERS = ("bare", "lite", "peft", "loralib")
Measured = dict[str, float]  # seconds by name of a side


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a cell: medians over its rounds.

    seconds: by name of a side. ratios: lite's to peft's, loralib's and the limit's, and `noise`, the bare layer's to itself; of each the median
    and the quartiles, taken round by round. bytes: the most that lives at once.
    """

    rounds: int
    seconds: dict[str, float]
    ratios: dict[str, tuple[float, float, float]]
    bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Timed:
    """A cell, and every run of it on one machine; none if it was left out as too slow."""

    cell: Cell
    machine: dict[str, str]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """All that the page shows."""

    cells: tuple[Timed, ...]
    suites: Suites | None


def run_of(turns: Sequence[Measured], taken: Mapping[str, int]) -> Run:
    """The medians of some rounds. The limit is the bare layer and the method's products; `again` is the bare layer, too."""
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    others = {name: [turn["lite"] / turn[name] for turn in turns] for name in ("peft", "loralib") if name in turns[0]}
    bare = [(turn["bare"] + turn["again"]) / 2 for turn in turns]
    ratios = others | {
        "limit": [turn["lite"] / (own + turn["products"]) for turn, own in zip(turns, bare, strict=True)],
        "noise": [turn["again"] / turn["bare"] for turn in turns],
    }
    return Run(len(turns), seconds, {name: _quartiles(values) for name, values in ratios.items()}, dict(taken))


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower, upper."""
    ordered, quarter = sorted(values), len(values) // 4
    return statistics.median(ordered), ordered[quarter], ordered[-1 - quarter]


def add(folder: Path, cell: Cell, run: Run | None) -> None:
    """Put one more run of a cell into the folder; runs of another machine, or of other releases, are dropped. None: it was too slow, and is left
    out if no run was fast enough before.
    """
    machine = run_folder.machine() | {"torch threads": str(cell.threads)}
    before = runs_of(folder, cell, machine)
    path = _path(folder, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    timed = Timed(cell, machine, (*before, run) if run else before)
    path.write_text(json.dumps(_plain(timed), indent=1) + "\n", encoding="utf-8", newline="\n")


def runs_of(folder: Path, cell: Cell, machine: Mapping[str, str] | None = None) -> tuple[Run, ...]:
    """Those that are in the folder, on that machine only if one is given; ValueError for a damaged file."""
    timed = _read(_path(folder, cell))
    return timed.runs if timed and machine in (None, timed.machine) else ()


def is_there(folder: Path, cell: Cell) -> bool:
    """Whether the cell was measured, or left out."""
    return _path(folder, cell).is_file()


def read_run(folder: Path) -> tuple[Timed, ...]:
    """Everything that is in the folder, in the grid's order."""
    return tuple(timed for cell in cells() if (timed := _read(_path(folder, cell))))


def _path(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / f"{cell.id}.json"


def _read(path: Path) -> Timed | None:
    if not path.is_file():
        return None
    try:
        return _timed(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, it is then measured again") from error


def _plain(timed: Timed) -> dict[str, Any]:
    return {"cell": timed.cell.to_dict(), "machine": timed.machine, "runs": [asdict(run) for run in timed.runs]}


def _timed(values: Mapping[str, Any]) -> Timed:
    runs = tuple(Run(**run | {"ratios": {name: tuple(three) for name, three in run["ratios"].items()}}) for run in values["runs"])
    return Timed(Cell(**values["cell"]), values["machine"], runs)


def is_complete(found: Sequence[Timed]) -> bool:
    """Whether every cell of the CPU's grid is there."""
    return {timed.cell for timed in found} >= {cell for cell in cells() if cell.device == "cpu"}


def current(run: Path | None, reports: Path) -> Times:
    """A run's cells if the whole grid is there, and its suites; what is committed of the rest."""
    committed = read(reports)
    cells_, suites_ = (read_run(run / FOLDER), suites.read(run / FOLDER)) if run else ((), None)
    return Times(cells_ if is_complete(cells_) else committed.cells, suites_ or committed.suites)


def to_json(times: Times) -> str:
    """The text of `performance.json`: a cell a line, with four digits; `machine` is a place in the list of machines."""
    machines = list({json.dumps(timed.machine): timed.machine for timed in times.cells}.values())
    lines = [json.dumps(_rounded(_plain(timed)) | {"machine": machines.index(timed.machine)}) for timed in times.cells]
    own = json.dumps(_rounded(suites.to_dict(times.suites)) if times.suites else None, ensure_ascii=False)
    told = json.dumps(machines, ensure_ascii=False)
    return f'{{"suites": {own},\n"machines": {told},\n"cells": [\n' + ",\n".join(lines) + "\n]}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(own) for name, own in value.items()}
    return [_rounded(own) for own in value] if isinstance(value, (list, tuple)) else value


def read(reports: Path) -> Times:
    """What is committed; empty if there is nothing, ValueError if it is damaged."""
    path = reports / FILE
    if not path.is_file():
        return Times((), None)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(_timed(cell | {"machine": told["machines"][cell["machine"]]}) for cell in told["cells"])
        return Times(found, suites.from_dict(told["suites"]) if told["suites"] else None)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error}); render it again with: nox -s report") from error
