"""Run one release after the other, each in a process of its own, and compare each with the one before."""

import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.version import Version
from rich.progress import Progress

from conformance import release, run_folder
from conformance.drift.compare import Change, changes
from conformance.drift.recorded import Release, read
from conformance.drift.releases import RELEASES
from conformance.drift.results import FILE, Drift, Row, to_json
from conformance.parallel import bar
from conformance.report.drift import text
from conformance.variants import known

SECONDS = 1800  # of one release


def report(wanted: Sequence[str], folder: Path) -> int:
    """Run these releases, or all, write what they gave to a folder and print it. Returns the exit status: 1 if one could not be run.

    Raises ValueError for what is no version.
    """
    versions = sorted(wanted or RELEASES, key=Version)
    run_folder.prepare(folder)
    ran: list[Release] = []
    rows: list[Row] = []
    with bar() as progress:
        for version in versions:
            try:
                made = _run(version, progress)
            except ValueError as error:
                rows.append(Row(version, problem=str(error)))
            else:
                ran.append(made)
                rows.append(Row(version, "", made.verdicts, made.missing, made.failures, made.divergences))
    drift = Drift(tuple(rows), tuple(_all(ran)), {k: v for k, v in run_folder.machine().items() if k != "peft"})
    (folder / FILE).write_text(to_json(drift), encoding="utf-8", newline="\n")
    print(text(drift))  # noqa: T201
    return 1 if any(row.problem for row in rows) else 0


def _all(ran: Sequence[Release]) -> Iterator[Change]:
    for before, after in itertools.pairwise(ran):
        yield from changes(before, after)


def _run(version: str, progress: Progress) -> Release:
    """A release's numbers; ValueError if it cannot be had, does not import or breaks off."""
    task = progress.add_task(f"peft {version}", total=len(known()))
    installed = release.prepare(version)
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-W", "ignore", "-m", "conformance.drift.recorded", out]
        child = subprocess.Popen(command, env=release.environment(installed), stdout=subprocess.PIPE, stderr=errors, text=True)
        limit = threading.Timer(SECONDS, child.kill)
        limit.start()
        try:
            for _ in child.stdout or ():
                progress.advance(task)
            broke_off = child.wait()
        finally:
            limit.cancel()
            child.kill()  # after an interrupt
        if broke_off:
            errors.seek(0)
            raise ValueError(f"took longer than {SECONDS} s, or broke off: {release.last_line(errors.read())}")
        return read(Path(out))
