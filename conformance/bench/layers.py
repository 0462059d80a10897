"""Forward and backward of one layer, in turns so that all see the same machine; a file for each cell, so that a run goes on where it stopped."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from conformance import run_folder
from conformance.bench import sides
from conformance.bench.cell import VARIANTS, Cell, cells
from conformance.bench.sides import Step
from refs.counted import Counted
from refs.threads import threads

FOLDER = "layers"
SLOW = 1.0  # seconds of a step of peft's, beyond which the largest layers are left out
FEW, LONG = 3, 5.0  # runs of what takes so many seconds


def report(folder: Path, runs: int, variants: Sequence[str] = (), *, again: bool = False) -> None:
    """Measure what is not there yet, and print the table."""
    chosen = list(cells(variants or VARIANTS))
    where = folder / FOLDER
    run_folder.prepare(folder)
    where.mkdir(exist_ok=True)
    open_ = [cell for cell in chosen if again or not (where / f"{cell.id}.json").is_file()]
    for cell in track(open_, f"{len(open_)} of {len(chosen)} cells", console=Console(stderr=True)):
        text = json.dumps(measured(cell, runs, _slow(where, cell)), indent=1)
        (where / f"{cell.id}.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    console = Console()
    console.print(table(read(folder)))
    if not torch.cuda.is_available():
        console.print("no GPU here: these are times of the CPU")


def _slow(where: Path, cell: Cell) -> bool:
    """Whether peft took too long on half the size for the largest layers to be asked."""
    if not cell.is_large:
        return False
    smaller = replace(cell, d_in=cell.d_in // 2, d_out=cell.d_out // 2)
    known = where / f"{smaller.id}.json"
    return known.is_file() and json.loads(known.read_text())["seconds"].get("peft", 0.0) * 4 > SLOW


def measured(cell: Cell, runs: int, skipped: bool = False) -> dict[str, Any]:
    """Medians of seconds by name, the median of lite's ratios to each of the others, their spread, and peak bytes beyond the layer's own."""
    about = {"cell": cell.to_dict(), "machine": run_folder.machine() | {"torch threads": str(cell.threads)}}
    if skipped:
        return about | {
            "seconds": {},
            "ratios": {},
            "spread": {},
            "bytes": {},
            "runs": 0,
            "skipped": f"peft's step takes more than {SLOW:g} s",
        }
    made = sides.steps(cell)
    with threads(cell.threads):
        first = {name: _seconds(step, cell.device) for name, step in made.items()}  # warms up
        count = runs if max(first.values()) < LONG else FEW
        rounds = [{name: _seconds(step, cell.device) for name, step in made.items()} for _ in range(count)]
        taken = {name: _bytes(step) for name, step in made.items()}
    ratios = {name: sorted(turn["lite"] / turn[name] for turn in rounds) for name in made if name != "lite"}
    return about | {
        "seconds": {name: statistics.median(turn[name] for turn in rounds) for name in made},
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "spread": {name: [values[len(values) // 4], values[-1 - len(values) // 4]] for name, values in ratios.items()},
        "bytes": taken,
        "runs": count,
    }


def _seconds(step: Step, device: str) -> float:
    if device != "cpu":
        return _on_gpu(step)
    before = time.perf_counter()
    step()
    return time.perf_counter() - before


def _on_gpu(step: Step) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _bytes(step: Step) -> int:
    """The most that lives at once while it runs; the same on every machine."""
    with Counted(tensors=step.known) as counted:
        step()
    peak: int = counted.peak
    return peak


def read(folder: Path) -> list[dict[str, Any]]:
    """Everything that was measured there, in the grid's order."""
    there = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / FOLDER).glob("*.json"))}
    return [there[cell.id] for cell in cells() if cell.id in there]


def table(found: Sequence[dict[str, Any]]) -> Table:
    """A row for each method: the worst and the best ratio."""
    made = Table(
        "method",
        "cells",
        "× peft, median",
        "best … worst",
        "× limit at d ≥ 1024, worst",
        "memory × peft, worst",
        title="forward and backward of one layer",
    )
    for variant in dict.fromkeys(one["cell"]["variant"] for one in found):
        own = [one for one in found if one["cell"]["variant"] == variant and one["ratios"]]
        ratios = sorted(one["ratios"]["peft"] for one in own)
        limits = [one["ratios"]["limit"] for one in own if min(one["cell"]["d_in"], one["cell"]["d_out"]) >= 1024]
        memory = [one["bytes"]["lite"] / one["bytes"]["peft"] for one in own]
        if ratios:
            made.add_row(
                variant, str(len(own)), f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} … {ratios[-1]:.2f}",
                f"{max(limits):.2f}" if limits else "–", f"{max(memory):.2f}",
            )  # fmt: skip
    return made
