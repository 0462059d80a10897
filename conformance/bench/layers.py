"""Forward and backward of one layer, in turns so that all see the same machine; a file for each cell, so that a run goes on where it stopped."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from conformance import run_folder
from conformance.bench import results, sides, tables
from conformance.bench.cell import VARIANTS, Cell, cells
from conformance.bench.results import Measured, Run
from conformance.bench.sides import Step
from refs.counted import Counted
from refs.threads import threads

SLOW = 1.0  # seconds of a step of the bare layer's, and in the largest layers of peft's, beyond which a cell is left out
SLOWEST = 10.0  # the same, of peft's in any layer
FEW, LONG = 5, 5.0  # rounds of what would take longer than so many seconds: three runs have 15 of them
TINY, FEWEST = 64, 2  # width and tokens of a layer where nothing but the dispatch of the operations takes time
REPEATED = 10  # steps of that size in a round


def report(folder: Path, rounds: int, variants: Sequence[str] = (), *, again: bool = False) -> None:
    """Measure what is not there yet, and print the table. again: measure every cell once more; earlier runs on the same machine are kept."""
    chosen = list(cells(variants or VARIANTS))
    run_folder.prepare(folder)
    open_ = [cell for cell in chosen if (again and results.runs_of(folder, cell)) or not results.is_there(folder, cell)]
    for cell in track(open_, f"{len(open_)} of {len(chosen)} cells", console=Console(stderr=True)):
        results.add(folder, cell, None if _will_be_slow(folder, cell) else measured(cell, rounds))
    console = Console()
    console.print(tables.terminal(results.read_run(folder)))
    if not torch.cuda.is_available():
        console.print("no GPU here: these are times of the CPU")


def _will_be_slow(folder: Path, cell: Cell) -> bool:
    """Whether a smaller cell was left out, or took so long that this one would be, too, if time is linear in everything."""
    for smaller in cells([cell.variant]):
        if not (smaller.is_within(cell) and results.is_there(folder, smaller)):
            continue
        runs = results.runs_of(folder, smaller)
        if not runs:
            return True
        size = cell.d_in * cell.d_out / (smaller.d_in * smaller.d_out)
        bare, peft = (min(run.seconds[side] for run in runs) * size for side in ("bare", "peft"))
        if is_slow(cell, bare * cell.tokens / smaller.tokens, peft) or peft * cell.rank > SLOWEST * smaller.rank > 0:
            return True
    return False


def is_slow(cell: Cell, bare: float, peft: float) -> bool:
    """Whether steps of so many seconds leave a cell out."""
    return bare > SLOW or peft > (SLOW if cell.is_large else SLOWEST)


def measured(cell: Cell, rounds: int) -> Run | None:
    """Seconds of every side in turns, and the bytes that each takes at most beyond what is there before it. None if it turns out to be slow."""
    small = replace(cell, d_in=TINY, d_out=TINY, tokens=FEWEST)
    made, tiny = sides.steps(cell), {"bare": sides.bare(small), "lite": sides.lite_step(small)}
    with threads(cell.threads):
        if is_slow(cell, _seconds(made["bare"], cell.device), 0.0):  # then nobody waits for the others
            return None
        first = _round(made, tiny, cell.device)
        if is_slow(cell, first["bare"], first["peft"]):
            return None
        is_long = sum(first.values()) * rounds > LONG
        turns = [first] if is_long else []  # else it has warmed up
        turns += [_round(made, tiny, cell.device) for _ in range(FEW - 1 if is_long else rounds)]
        taken = {name: _bytes(made[name]) for name in made if name in results.LAYERS}
    return results.run_of(turns, taken)


def _round(made: Mapping[str, Step], tiny: Mapping[str, Step], device: str) -> Measured:
    """Once each. dispatch: what a step of lite takes beyond the bare layer where there is next to nothing to compute."""
    seconds = {name: _seconds(step, device) for name, step in made.items()}
    least = {name: min(_seconds(step, device) for _ in range(REPEATED)) for name, step in tiny.items()}
    return seconds | {"dispatch": least["lite"] - least["bare"]}


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
