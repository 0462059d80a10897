"""Search all variants for hours: which cases come closest to their bounds, and which break them."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from conformance.checks.sweep import shape_sweep
from conformance.search import worst
from conformance.suite import Suite
from conformance.suite_of import suite_of
from conformance.terminal import failure_table, rendered
from conformance.trial import Trial
from conformance.verdict import Measurement, Verdict
from refs.case import Case
from refs.threads import one_thread

ROUND = 25  # cases of one suite and reference before the next one's turn


@dataclass
class Found:
    """What a search of one variant against one reference came to."""

    variant: str
    reference: str
    cases: int = 0
    worst: Measurement | None = None
    failed: list[Measurement] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The largest error, in units of its bound."""
        return self.worst.error / self.worst.bound if self.worst else 0.0

    def add(self, measurements: list[Measurement]) -> None:
        """What one round saw."""
        for m in measurements:
            if m.verdict is Verdict.FAILS:
                self.failed.append(m)
            elif m.error / m.bound > self.ratio:
                self.worst = m


def hunt(suites: Sequence[Suite], *, minutes: float, largest: int, seed: int) -> Iterator[list[Found]]:
    """Search all suites in turn until the time is over; yields what was found so far after every round of one of them."""
    end = time.monotonic() + 60 * minutes
    found: dict[tuple[str, str], Found] = {}
    for number in itertools.count():
        for suite in suites:
            for reference in suite.all_references:
                if time.monotonic() > end and number:
                    return
                if reference.missing():
                    continue
                trial = Trial(suite=suite, check=shape_sweep.name, candidate=suite.candidate, reference=reference)
                entry = found.setdefault((suite.variant, reference.name), Found(suite.variant, reference.name))
                tried: list[Case] = []
                with one_thread():
                    entry.add(worst(trial, examples=ROUND, largest=largest, seed=seed + number, tried=tried))
                entry.cases += len(tried)
                yield list(found.values())


def report(variants: Sequence[str], *, minutes: float, largest: int, seed: int) -> int:
    """Search with a progress line, print the closest cases, then the failures. Returns the exit status: 1 if anything failed."""
    console, found = Console(), []
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("searching", total=None)
        for found in hunt([suite_of(name) for name in variants], minutes=minutes, largest=largest, seed=seed):
            top = max(found, key=lambda entry: entry.ratio)
            failures = sum(len(entry.failed) for entry in found)
            words = f"{sum(entry.cases for entry in found)} cases, {failures} failures, closest {top.ratio:.2f} of its bound ({top.variant})"
            progress.update(task, description=words)
    table = Table(box=SIMPLE)
    for title in ("variant", "reference", "cases", "closest", "what", "case"):
        table.add_column(title, overflow="fold")
    for entry in sorted(found, key=lambda entry: -entry.ratio):
        shown = entry.worst
        table.add_row(
            entry.variant,
            entry.reference,
            str(entry.cases),
            f"{entry.ratio:.2f}",
            shown.what if shown else "",
            shown.case_id if shown else "",
        )
    console.print(rendered(table), markup=False, highlight=False)
    failed = [m for entry in found for m in entry.failed]
    if failed:
        for m in failed:
            console.print(failure_table([m]), markup=False, highlight=False)
    return 1 if failed else 0
