"""Mutation testing: do the tests see every small change of the maths and of the verdicts? python -m conformance.tests.mutation --help.

mutmut changes one expression at a time and runs the tests that reach it. What none of them sees needs a better test, or an entry in
`mutation_equivalents.toml` that says why the change makes no difference. Functions with a decorator are not changed by mutmut.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / ".mutation"
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.toml")
LEAST = 0.95  # of the mutants that are not equivalent
SOURCES = ("lite", "refs", "conformance")

# Which tests judge a file: arguments for pytest. All others would only cost time; a method's carry its name.
TESTS: dict[str, tuple[str, ...]] = {
    f"lite/variants/{path.stem}.py": ("-k", path.stem, "lite/tests", "conformance/suites", "conformance/whole/test_interop.py")
    for path in sorted((ROOT / "lite" / "variants").glob("[!_]*.py"))
} | {
    "lite/decomposition.py": ("-k", "pissa or lora_xs", "lite/tests", "conformance/suites"),
    "conformance/policy.py": ("conformance/tests/test_policy.py",),
    "conformance/verdict.py": ("conformance/tests/test_verdict.py",),
    "conformance/guards.py": ("conformance/tests/test_guards.py",),
    "conformance/jobs.py": ("conformance/tests/test_jobs.py", "conformance/tests/test_divergences.py"),
    "conformance/checks/function.py": (
        "-k",
        "function or cast or factor_1e",
        "conformance/tests/test_function_checks.py",
        "conformance/tests/test_certify.py",
    ),
}

# A fork per mutant, from a server that has run no test: what tests leave in caches would hide a mutant.
# Ids are left unescaped because pytest would escape them once more in the fork; the watch for unraisable exceptions collects
# all garbage again and again, and meets a file that mutmut leaves open.
CONFIG = """[mutmut]
source_paths =
    {sources}
only_mutate =
    {file}
pytest_add_cli_args_test_selection =
    {tests}
pytest_add_cli_args =
    -p
    no:cacheprovider
    -p
    no:unraisableexception
    -o
    disable_test_id_escaping_and_forfeit_all_rights_to_community_support=true
process_isolation = forkserver
timeout_multiplier = 5
timeout_constant = 10
"""

# What became of a mutant, by pytest's exit status in the fork; signals are the kernel's and mutmut's limits of time.
OUTCOMES = {0: "survived", 1: "killed", 5: "survived", 33: "survived", 36: "timeout", -24: "timeout", 24: "timeout", 152: "timeout"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A survivor. function: with its class. old, new: the lines that differ, without indentation."""

    file: str
    function: str
    old: str
    new: str
    diff: str


def arguments() -> argparse.Namespace:
    """What was asked for; exits 2 for an unknown file."""
    parser = argparse.ArgumentParser(prog="python -m conformance.tests.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"files to mutate (default: all of {', '.join(TESTS)})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time (default: one per core)")
    parser.add_argument("--again", action="store_true", help="report the last run instead of running")
    asked = parser.parse_args()
    if unknown := [file for file in asked.files if file not in TESTS]:
        parser.error(f"no tests are stated for {', '.join(unknown)}; known: {', '.join(TESTS)}")
    return asked


def folder_of(file: str) -> Path:
    """Where a file's mutants are."""
    return SCRATCH / file.removesuffix(".py").replace("/", ".")


def mutate(file: str, jobs: int) -> None:
    """Run mutmut on one file, in a folder of its own; its progress goes to the terminal. Exits 1 if it cannot run."""
    folder = folder_of(file)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (*SOURCES, "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    lines = {"sources": SOURCES, "file": (file,), "tests": TESTS[file]}
    (folder / "setup.cfg").write_text(CONFIG.format(**{name: "\n    ".join(values) for name, values in lines.items()}))
    command = [Path(sys.executable).with_name("mutmut"), "run", "--max-children"]
    if subprocess.run([*command, str(jobs)], cwd=folder).returncode:
        raise SystemExit(f"mutmut could not run on {file}: it says why above; the tests have to pass before anything is changed")
    if lost := [name for name, outcome in outcomes(file).items() if outcome not in OUTCOMES.values()]:
        subprocess.run([*command, "1", *lost], cwd=folder)  # alone: forks share a folder, and may get into each other's way


def outcomes(file: str) -> dict[str, str]:
    """Mutmut's name of each mutant → killed, survived, timeout, or what went wrong."""
    codes: dict[str, Any] = json.loads((folder_of(file) / "mutants" / f"{file}.meta").read_text())["exit_code_by_key"]
    return {name: OUTCOMES.get(code, f"exit {code}") for name, code in codes.items()}


def survivor(file: str, name: str) -> Mutant:
    """What was changed in a mutant."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # its tests run where mutmut is not installed

    with chdir(folder_of(file)):
        diff = get_diff_for_mutant(name, path=file)
    changed = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    old, new = ("\n".join(line[1:].strip() for line in changed if line.startswith(sign)) for sign in "-+")
    function = name.rpartition(".")[2].rpartition("__mutmut_")[0].removeprefix("x").strip("ǁ").replace("ǁ", ".").removeprefix("_")
    return Mutant(file, function, old, new, diff)


def equivalents() -> dict[tuple[str, ...], str]:
    """(file, function, old, new) → why it makes no difference."""
    entries = tomllib.loads(EQUIVALENTS.read_text())["equivalent"]
    return {(e["file"], e["function"], e["old"], new): e["reason"] for e in entries for new in e["new"]}


def report(files: list[str], console: Console) -> bool:
    """Print the scores and every survivor without an explanation; whether all is well."""
    explained, used, unexplained, broken = equivalents(), set(), [], []
    table, total = Table("file", "mutants", "killed", "timeouts", "survived", "equivalent", "score"), Counter()
    for file in files:
        found = outcomes(file)
        survivors = [survivor(file, name) for name, outcome in found.items() if outcome == "survived"]
        keys = {(m.file, m.function, m.old, m.new): m for m in survivors}
        used |= explained.keys() & keys.keys()
        open_ = [m for m in survivors if (m.file, m.function, m.old, m.new) not in explained]
        unexplained += open_
        broken += [f"{name}: {outcome}" for name, outcome in found.items() if outcome not in OUTCOMES.values()]
        count = Counter(found.values()) + Counter({"equivalent": len(survivors) - len(open_), "mutants": len(found)})
        table.add_row(file, *row(count))
        total += count
    table.add_row("all", *row(total), end_section=True)
    for mutant in unexplained:
        console.print(f"\nsurvived, unexplained: {mutant.function}", style="bold", highlight=False)
        console.print(mutant.diff, markup=False, highlight=False)
    stale = [key for key in explained if key[0] in files and key not in used]
    for key in stale:
        console.print(f"stale: {EQUIVALENTS.name} explains a mutant that does not survive: {' | '.join(key)}", markup=False)
    for line in broken:
        console.print(f"no result: {line}", markup=False)
    console.print(table)
    enough = score(total) >= LEAST
    console.print(f"{100 * score(total):.1f} % killed, should be at least {100 * LEAST:.0f} %; {len(unexplained)} unexplained")
    return enough and not stale and not broken


def score(count: Counter[str]) -> float:
    """The killed share of what is not equivalent."""
    asked = count["mutants"] - count["equivalent"]
    return (count["killed"] + count["timeout"]) / asked if asked else 1.0


def row(count: Counter[str]) -> list[str]:
    """A line of the table, after its name."""
    numbers = [count[name] for name in ("mutants", "killed", "timeout", "survived", "equivalent")]
    return [*map(str, numbers), f"{100 * score(count):.1f} %"]


def main() -> int:
    """Mutate, and report."""
    asked = arguments()
    files = asked.files or list(TESTS)
    console = Console(soft_wrap=True)
    for number, file in enumerate(files if not asked.again else (), 1):
        console.print(f"{file} ({number} of {len(files)})", style="bold", highlight=False)
        mutate(file, asked.jobs)
    return 0 if report(files, console) else 1


if __name__ == "__main__":
    sys.exit(main())
