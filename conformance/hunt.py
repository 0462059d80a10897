"""Search all variants: which of thousands of drawn cases come closest to their bounds, and which break them."""

import itertools
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from tqdm import tqdm

from conformance import run_folder, runs, search_results
from conformance.checks.search import everything, worst
from conformance.checks.sweep import shape_sweep
from conformance.search_results import Found, Searched
from conformance.suite_of import suite_of
from conformance.terminal import failure_table, reproduce
from conformance.trial import Trial
from conformance.verdict import Measurement
from refs.case import Case
from refs.threads import one_thread

ROUND = 25  # cases of one variant and reference before the next one's turn
AHEAD = 4  # rounds per process that may be under way while the results of an earlier one are awaited


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of work: one round of one variant against one reference. What it draws follows from it alone."""

    variant: str
    reference: str
    number: int
    largest: int
    seed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one unit measured."""

    unit: Unit
    cases: frozenset[Case]
    measurements: tuple[Measurement, ...]


def searched(unit: Unit) -> Seen:
    """Do one unit."""
    suite = suite_of(unit.variant)
    reference = next(reference for reference in suite.all_references if reference.name == unit.reference)
    trial = Trial(suite=suite, check=shape_sweep.name, candidate=suite.candidate, reference=reference)
    runs.forget()  # large layers, none of which comes back
    tried: list[Case] = []
    with one_thread():
        measured = worst(trial, everything(unit.largest), examples=ROUND, seed=repr(unit), tried=tried)
    return Seen(unit, frozenset(tried), tuple(measured))


def hunt(
    variants: Sequence[str], *, cases: int, minutes: float | None = None, processes: int = 1, largest: int = 512, seed: int = 0
) -> Iterator[Searched]:
    """Search until so many different cases are measured; yields what was found so far after each round of a variant and reference.

    A variant and reference that gave an alarm is searched no further. The same cases are found whatever the number of
    processes: results count in the order of their units, and what was done beyond the last of them does not. minutes: when to
    stop in any case. Stops, too, when a whole round draws nothing new.
    """
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    found = _nothing_yet(variants)
    made_with = run_folder.machine() | {"hypothesis": metadata.version("hypothesis"), "torch threads": "1 and 2"}
    now = Searched(seed, largest, cases, tuple(found.values()), made_with)
    number, before = 0, -1
    with closing(_in_order(_units(found, largest, seed), processes)) as results:
        for seen in results:
            if seen.unit.number > number:
                if now.cases == before:
                    return
                number, before = seen.unit.number, now.cases
            entry = found[seen.unit.variant, seen.unit.reference]
            if not entry.alarms:
                entry.add(seen.cases, seen.measurements)
                yield now
            if now.cases >= cases or time.monotonic() > end:
                return


def _nothing_yet(variants: Sequence[str]) -> dict[tuple[str, str], Found]:
    references = [(name, reference) for name in variants for reference in suite_of(name).all_references]
    return {
        (name, r.name): Found(name, r.name, r.version, r.missing() or ("its cases are recorded" if r.is_fixed else ""))
        for name, r in references
    }


def _units(found: dict[tuple[str, str], Found], largest: int, seed: int) -> Iterator[Unit]:
    """Round after round, of what gave no alarm so far."""
    for number in itertools.count():
        if all(entry.missing or entry.alarms for entry in found.values()):
            return
        for (variant, reference), entry in found.items():
            if not (entry.missing or entry.alarms):
                yield Unit(variant, reference, number, largest, seed)


def _in_order(units: Iterator[Unit], processes: int) -> Generator[Seen]:
    """The results in the order of the units, whoever is ready first."""
    if processes == 1:
        yield from map(searched, units)
        return
    # Torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_to_be_ended) as pool:
        try:
            waiting = deque(pool.submit(searched, unit) for unit in itertools.islice(units, AHEAD * processes))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(searched, unit) for unit in itertools.islice(units, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():  # whatever they still do counts for nothing
                child.terminate()


def _prepare_to_be_ended() -> None:
    """Interrupts are for the process that collects; tqdm's own lock is a semaphore, which an ended process leaves behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())


def report(variants: Sequence[str], folder: Path, *, processes: int, **limits: Any) -> int:
    """Search with a progress line, write what was found to a folder and print it, also after an interrupt.

    limits: as `hunt` takes them. Returns the exit status: 1 after an alarm, 130 after an interrupt without one.
    """
    run_folder.prepare(folder)
    now: Searched | None = None
    interrupted = False
    try:
        for latest in _watched(hunt(variants, processes=processes, **limits)):
            now = latest
    except KeyboardInterrupt:
        interrupted = True
    if now is not None:
        search_results.write(folder, now)
        Console(soft_wrap=True).print(text(now), markup=False, highlight=False)
    return 1 if now and now.alarms else 130 if interrupted else 0


def _watched(search: Iterator[Searched]) -> Iterator[Searched]:
    """With a progress line on a terminal, and a line a minute elsewhere."""
    console, begin, said = Console(stderr=True), time.monotonic(), 0
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console, disable=not console.is_terminal) as line:
        task = line.add_task("searching", total=None)
        for now in search:
            seconds = time.monotonic() - begin
            line.update(task, description=_progress(now, seconds))
            if not console.is_terminal and seconds // 60 > said:
                said = int(seconds // 60)
                console.print(f"{said} min: {_progress(now, seconds)}", soft_wrap=True, highlight=False)
            yield now


def _progress(now: Searched, seconds: float) -> str:
    top = max((m for entry in now.found if (m := entry.worst)), key=lambda m: m.ratio, default=None)
    closest = f"closest {top.ratio:.2f} of its bound ({top.variant}, {top.what})" if top else "nothing yet"
    return f"{now.cases} of {now.asked} cases, {now.cases / seconds:.1f}/s, {len(now.alarms)} alarms, {closest}"


def text(now: Searched) -> str:
    """A line for each variant and reference, the closest first, with the command that runs the case again; then the alarms in full."""
    lines = [f"{now.cases} of {now.asked} cases, seed {now.seed}, sizes to {now.largest}, {len(now.alarms)} alarms"]
    for entry in sorted(now.found, key=lambda entry: (not entry.alarms, -(entry.worst.ratio if entry.worst else 0))):
        counts = f"{entry.variant} against {entry.reference}: {entry.missing or f'{entry.cases} cases'}"
        if entry.worst is None:
            lines.append(counts)
        else:
            lines += [f"{counts}, error / bound {entry.closeness}: {entry.worst.what}", f"    {reproduce(entry.worst)}"]
    return "\n".join([*lines, *(f"\n{failure_table([m])}" for m in now.alarms)])
