"""How long the suites take and how much memory: whole processes, beside the bare imports."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

IMPORTS = ["-c", "import torch, peft"]
SUITES = ["-m", "pytest", "--pyargs", "conformance.suites", "-q", "-p", "no:randomly", "--conformance-dir", ".conformance/bench"]
COMMANDS = {
    "import torch, peft": IMPORTS,
    "pytest -k delora": [*SUITES, "-k", "delora"],
    "all variants": SUITES,
    "all variants, -n 2": [*SUITES, "-n", "2"],
}
# Runs a child and prints the largest resident size of it and of its own children, in KiB.
MEASURE = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: wall-clock seconds and the largest single process in MiB."""

    seconds: float
    mebibytes: float


def timed(arguments: Sequence[str]) -> Run:
    """Run this interpreter with the arguments; CalledProcessError if that fails."""
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, sys.executable, *arguments], check=True, capture_output=True, text=True)
    return Run(time.perf_counter() - before, int(done.stdout.split()[-1]) / 1024)


def report(runs: int) -> None:
    """Print how long whole runs take."""
    table = Table("command", "median s", "beyond imports", "min … max s", "largest process")
    imports = 0.0
    for name, arguments in track(COMMANDS.items(), "running", console=Console(stderr=True)):
        timed(arguments)
        measured = [timed(arguments) for _ in range(runs)]
        seconds = [run.seconds for run in measured]
        median = statistics.median(seconds)
        imports = imports or median
        table.add_row(
            name, f"{median:.1f}", f"{median - imports:.1f}", f"{min(seconds):.1f} … {max(seconds):.1f}",
            f"{max(run.mebibytes for run in measured):.0f} MiB",
        )  # fmt: skip
    Console().print(table)
