"""How long the suites take, where that time goes, and how much memory: whole processes, beside the bare imports."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from conformance import run_folder

FILE = "suites.json"
PHASES = ("imports", "building", "running", "comparing", "reporting", "pytest")
LAYERS = ("building", "running")
SUITES = ("-m", "pytest", "--pyargs", "conformance.suites", "-q", "-p", "no:randomly")
DELORA, ALL, SPREAD = "pytest -k delora", "all variants", "all variants, -n 2"
COMMANDS = {
    "import torch, peft": ("-c", "import torch, peft"),
    DELORA: (*SUITES, "-k", "delora"),
    ALL: SUITES,
    SPREAD: (*SUITES, "-n", "2"),
}
# Runs a child and prints the largest resident size of it and of its own children, in KiB.
MEASURE = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # the first run compiles


@dataclass(frozen=True, slots=True)
class Suite:
    """Medians over the runs of a command. seconds, mebibytes: of the wall clock, of the largest process. phases: seconds, where one process does all."""

    seconds: float
    mebibytes: float
    phases: dict[str, float]

    @property
    def overhead(self) -> float:
        """The part of the time that neither the imports nor the layers take."""
        return 1 - sum(self.phases[name] for name in ("imports", *LAYERS)) / sum(self.phases.values())


@dataclass(frozen=True, slots=True)
class Suites:
    """Every command's, and what they were run with."""

    machine: dict[str, str]
    by_command: dict[str, Suite]

    @property
    def efficiency(self) -> float:
        """Of two processes: how much of twice the speed they reach."""
        return self.by_command[ALL].seconds / (2 * self.by_command[SPREAD].seconds)


def report(folder: Path, runs: int) -> None:
    """Run every command once to warm up and so often, print the table, and keep it in the folder."""
    found = {}
    for name, arguments in track(COMMANDS.items(), "running", console=Console(stderr=True)):
        timed(arguments)
        found[name] = _median([timed(arguments) for _ in range(runs)])
    suites = Suites(run_folder.machine(), found)
    run_folder.prepare(folder)
    (folder / FILE).write_text(json.dumps(to_dict(suites), indent=1) + "\n", encoding="utf-8", newline="\n")
    Console().print(table(suites))


def timed(arguments: Sequence[str]) -> Suite:
    """Run this interpreter with the arguments; CalledProcessError if that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        phases, more = Path(scratch) / "phases.json", []
        if "pytest" in arguments:
            more = ["--conformance-dir", scratch]
            if "-n" not in arguments:
                more += ["-p", "conformance.bench.phases", "--phases", str(phases)]
        command = [sys.executable, "-c", MEASURE, sys.executable, *arguments, *more]
        before = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
        seconds = time.perf_counter() - before
        return Suite(
            seconds, int(done.stdout.split()[-1]) / 1024, json.loads(phases.read_text(encoding="utf-8")) if phases.exists() else {}
        )


def _median(measured: Sequence[Suite]) -> Suite:
    return Suite(
        statistics.median(one.seconds for one in measured),
        max(one.mebibytes for one in measured),
        {name: statistics.median(one.phases[name] for one in measured) for name in PHASES if name in measured[0].phases},
    )


def table(suites: Suites) -> Table:
    """A row for each command."""
    made = Table(
        "command",
        "median s",
        *PHASES,
        "overhead",
        "largest process",
        caption=f"-n 2 reaches {suites.efficiency:.0%} of twice the speed",
    )
    for row in rows(suites):
        made.add_row(*row)
    return made


def rows(suites: Suites) -> list[list[str]]:
    """The table's text."""
    return [
        [
            name, f"{one.seconds:.1f}", *(f"{one.phases[phase]:.1f}" if one.phases else "–" for phase in PHASES),
            f"{one.overhead:.0%}" if one.phases else "–", f"{one.mebibytes:.0f} MiB",
        ]
        for name, one in suites.by_command.items()
    ]  # fmt: skip


def to_dict(suites: Suites) -> dict[str, Any]:
    """Plain values."""
    return asdict(suites)


def from_dict(values: Mapping[str, Any]) -> Suites:
    """Read `to_dict` back."""
    return Suites(values["machine"], {name: Suite(**own) for name, own in values["by_command"].items()})


def read(folder: Path) -> Suites | None:
    """What `report` wrote, None if there is nothing; ValueError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from error
