# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2024.10.9"]
# ///
"""Developer commands, one session per thing that is proved. `nox --list` shows them.

All sessions share one plain pip environment, `.nox/shared`: torch is too large for one each. Only other libraries, which do not agree with
each other, have their own.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests", "conformance"]
nox.options.default_venv_backend = "none"

HERE = Path(__file__).parent
BIN = "Scripts/python.exe" if os.name == "nt" else "bin/python"
PYTHON = HERE / ".nox" / "shared" / BIN
PINS = HERE / ".ci" / "constraints.txt"
THIRD_PARTIES = HERE / "conformance" / "third_party"
WORKFLOWS = sorted((HERE / ".github" / "workflows").glob("*.yml"))
PROJECT = nox.project.load_toml(HERE / "pyproject.toml")
# Compiles what takes longest, once; only an environment in which this works is stamped, whatever nox was told to skip.
PROVE = "import pathlib, sys, torch, peft, transformers; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
TORCH = "torch==2.13.0"  # installed first and by exact version: a bare `torch` may pull another build


def install(session: nox.Session, group: str) -> None:
    """The project, editable, and one of its dependency groups; nothing if nothing changed since the last time."""
    environment(session, PYTHON, group, nox.project.dependency_groups(PROJECT, group), PINS.read_text())


def environment(session: nox.Session, interpreter: Path, name: str, requirements: Sequence[str], pins: str) -> None:
    """torch, then the project, editable, and the requirements, in the environment of that interpreter; nothing if nothing changed."""
    home = interpreter.parents[1]
    wanted = hashlib.sha256(repr((PROJECT, sorted(requirements), pins)).encode()).hexdigest()
    stamp = home / f"{name}.stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    home.mkdir(parents=True, exist_ok=True)
    constraints = home / f"{name}.constraints.txt"
    constraints.write_text(pins)
    pip = (str(interpreter), "-m", "pip", "install", "--quiet")
    if not interpreter.exists():
        session.run_install(sys.executable, "-m", "venv", str(home), external=True)
    session.run_install(*pip, TORCH, external=True)
    session.run_install(*pip, "-c", str(constraints), "-e", ".", *requirements, external=True)
    session.run_install(str(interpreter), "-c", PROVE, str(stamp), wanted, external=True)


def python(session: nox.Session, *arguments: str, codes: tuple[int, ...] = (0,), interpreter: Path = PYTHON) -> None:
    """Run an environment's interpreter, the shared one's by default, without a hub. codes: exit codes that are no failure."""
    session.run(str(interpreter), *arguments, external=True, env={"HF_HUB_OFFLINE": "1"}, success_codes=codes)


@nox.session
def conformance(session: nox.Session) -> None:
    """Verdict tables of all variants and of whole models. `-- --variant lora`, `-- -k delora` narrow it, `-- -n 2` spreads it."""
    install(session, "test")
    python(session, "-m", "pytest", "conformance/suites", "conformance/whole", "-p", "no:randomly", *session.posargs)


@nox.session
def training(session: nox.Session) -> None:
    """What takes minutes on whole models: a hundred steps of every variant beside peft's, every variant compiled on every model. `-- -k lora`."""
    install(session, "test")
    python(session, "-m", "pytest", "conformance/whole/hundred_steps.py", "-p", "no:randomly", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The project's own tests: lite, the references, the harness, and one known bug of every variant planted; on all cores, `-- -n 0` on one."""
    install(session, "report")
    arguments = ("-n", "auto", "--dist", "loadgroup", "lite/tests", "refs/tests", "conformance/tests")
    python(session, "-m", "pytest", *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, ruff format, mypy strict and the workflow's validators, at zero."""
    install(session, "lint")
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    python(session, "-m", "mypy")
    session.run(str(PYTHON.with_name("zizmor")), "--offline", "--quiet", ".github/workflows", external=True)  # no module to run
    python(session, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))


@nox.session
def report(session: nox.Session) -> None:
    """Render `reports/` and README's table from a full run; `-- --check` fails if a verdict, divergence or doc gap differs, `-- --merge DIR…` takes runs that are there."""
    install(session, "report")
    if "--merge" in session.posargs:
        python(session, "-m", "conformance", "report", *session.posargs)
        return
    python(
        session,
        "-m",
        "pytest",
        "conformance/suites",
        "conformance/whole",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        codes=(0, 1),
    )
    python(session, "-m", "conformance", "floor", codes=(0, 1))
    python(session, "-m", "conformance", "report", *session.posargs)


@nox.session
def bugs(session: nox.Session) -> None:
    """Plant every known bug and print which checks turn red; fails on a survivor, a wrong set, an idle check. `-- lora`, `-- --help`."""
    install(session, "test")
    python(session, "-m", "conformance", "bugs", *session.posargs)


@nox.session
def floor(session: nox.Session) -> None:
    """The smallest error in a layer that turns its verdict; fails where it is above its goal. `-- lora`, `-- --help`."""
    install(session, "test")
    python(session, "-m", "conformance", "floor", *session.posargs)


@nox.session(name="third-party")
def third_party(session: nox.Session) -> None:
    """Certify layers of loralib, torchtune and others, each library in its own environment; data for `report`. `-- torchtune`: one of them."""
    known = third_parties()
    if unknown := set(session.posargs) - set(known):
        session.error(f"unknown library {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for name in session.posargs or known:
        own = HERE / ".nox" / "third-party" / name / BIN
        pinned = {requirement.partition("==")[0] for requirement in known[name]}
        pins = [line for line in PINS.read_text().splitlines() if line.partition("==")[0] not in pinned]
        requirements = [*nox.project.dependency_groups(PROJECT, "pretrained"), *known[name]]
        environment(session, own, name, requirements, "\n".join(pins))
        python(session, "-m", "conformance", "third-party", name, codes=(0, 1), interpreter=own)


def third_parties() -> dict[str, list[str]]:
    """Each library with what it has to be installed with, as its file in `conformance/third_party` says."""
    files = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(THIRD_PARTIES.glob("[!_]*.py"))]
    said = [node.value for file in files for node in ast.walk(file) if isinstance(node, ast.keyword) and node.arg == "requirements"]
    return {required[0].partition("==")[0]: list(required) for required in map(ast.literal_eval, said)}


@nox.session
def drift(session: nox.Session) -> None:
    """Run the releases of peft since 0.15 and show what changed from one to the next: `-- 0.20.0 0.21.2`, `-- --help`."""
    install(session, "test")
    python(session, "-m", "conformance", "drift", *session.posargs)


@nox.session
def refs(session: nox.Session) -> None:
    """Clone the authors' repositories at their pinned commits into $PEFT_CONFORMANCE_REFS or the user's cache, and verify every file."""
    install(session, "test")
    python(session, "-m", "conformance", "refs", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Run the authors' layers again; fails if a recorded trace would change. `-- --write` keeps the new ones."""
    install(session, "record")
    python(session, "-m", "conformance", "record", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """The wheel installs in a clean environment and runs a suite there; its metadata pins nothing."""
    install(session, "package")
    clean = Path(session.create_tmp())
    python(session, "-m", "build", "--wheel", "--outdir", str(clean / "dist"), ".")
    python(session, "-m", "conformance.tests.wheel", str(clean), str(PINS))


@nox.session
def search(session: nox.Session) -> None:
    """Draw 10,000 cases of any shape, scale and option and climb towards the largest error: `-- --cases 1000`, `-- lora --seed 7`."""
    install(session, "test")
    python(session, "-m", "conformance", "search", *session.posargs)


@nox.session
def quantised(session: nox.Session) -> None:
    """Every variant on 4-bit and 8-bit bases of bitsandbytes, beside peft, in an environment of its own. `-- -k hra`."""
    own = HERE / ".nox" / "quantised" / BIN
    requirements = [name for group in ("pretrained", "quantised") for name in nox.project.dependency_groups(PROJECT, group)]
    environment(session, own, "quantised", requirements, PINS.read_text())
    python(session, "-m", "pytest", "conformance/whole/on_quantised.py", *session.posargs, interpreter=own)


@nox.session
def bench(session: nox.Session) -> None:
    """How long lite's layers take beside peft's; attaching, saving and loading; the suites. `-- layers`, `-- dora`, `-- --help`."""
    install(session, "test")
    python(session, "-m", "conformance.bench", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the maths and the verdict code expression by expression: 95 % has to be seen. `-- lite/variants/lora.py`; `-- --help`."""
    install(session, "mutation")
    python(session, "-m", "conformance.tests.mutation", *session.posargs)
