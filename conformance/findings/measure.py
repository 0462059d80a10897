"""Run the scripts of the findings on what is installed, and compare with what they should print."""

import contextlib
import io
import runpy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from conformance.findings.table import FINDINGS, Finding
from conformance.terminal import rendered


@dataclass(frozen=True, slots=True)
class Seen:
    """A finding and what its script printed last; why there is no size, if there is none."""

    finding: Finding
    size: float | None
    problem: str = ""

    @property
    def outcome(self) -> str:
        """Still there as told, or not."""
        if self.size is None:
            return self.problem
        low, high = self.finding.expected
        if low <= self.size <= high:
            return "still there"
        return "fixed?" if self.size < low else "another size"

    @property
    def is_red(self) -> bool:
        """Whether the page is no longer right."""
        return self.outcome != "still there" and not _missing(self.finding)


def last_number(script: Path) -> float:
    """Run a script as `python` would, in this process but with its own seed and silent, and read the last line that it prints.

    Raises ValueError if that is no number, and whatever the script raises.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # peft's advice to its users
        runpy.run_path(str(script), run_name="__main__")
    lines = printed.getvalue().splitlines() or [""]
    try:
        return float(lines[-1])
    except ValueError:
        raise ValueError(f"{script.name} should print a number last, and printed {lines[-1]!r}") from None


def seen(finding: Finding) -> Seen:
    """Measure one. Never raises: a script that fails has no size."""
    if missing := _missing(finding):
        return Seen(finding, None, missing)
    try:
        return Seen(finding, last_number(finding.script))
    except Exception as error:  # another release may fail anywhere
        return Seen(finding, None, f"{type(error).__name__}: {error}")


def chosen(ids: Sequence[str]) -> tuple[Finding, ...]:
    """The findings of these ids, all without any; ValueError that lists them for an unknown one."""
    known = {finding.id: finding for finding in FINDINGS}
    if unknown := [id_ for id_ in ids if id_ not in known]:
        raise ValueError(f"unknown finding {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(known[id_] for id_ in ids) or FINDINGS


def of_libraries(names: Sequence[str]) -> tuple[Finding, ...]:
    """The findings in these libraries."""
    return tuple(finding for finding in FINDINGS if finding.library in names)


def report(findings: Sequence[Finding]) -> int:
    """Measure with a progress line and print the table. Returns the exit status: 1 if one is not as expected."""
    console = Console()
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("findings", total=len(findings))
        everything: list[Seen] = []
        for finding in findings:
            progress.update(task, description=f"{len(everything)} of {len(findings)}: {finding.id}", advance=1)
            everything.append(seen(finding))
    console.print(rendered(_table(everything)), markup=False, highlight=False)
    return 1 if any(one.is_red for one in everything) else 0


def _table(everything: Sequence[Seen]) -> Table:
    table = Table(box=SIMPLE)
    for title in ("finding", "on", "expected", "seen", "outcome"):
        table.add_column(title, overflow="fold")
    for one in everything:
        table.add_row(one.finding.id, *_cells(one))
    return table


def _cells(one: Seen) -> Iterator[str]:
    finding = one.finding
    yield finding.library if _missing(finding) else f"{finding.library} {metadata.version(finding.library)}"
    yield " … ".join(dict.fromkeys(map(finding.words, finding.expected)))
    yield finding.words(one.size)
    yield one.outcome


def _missing(finding: Finding) -> str:
    for name in filter(None, (finding.library, finding.needs)):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"untested: {name} is not installed"
    return ""
