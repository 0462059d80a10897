# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2024.10.9"]
# ///
"""Developer commands, one session per thing that is proved. `nox --list` shows them."""

from pathlib import Path
from typing import Any

import nox

nox.options.sessions = ["lint", "tests", "conformance"]
nox.options.default_venv_backend = "venv"

TORCH = "torch==2.13.0"  # installed first and by exact version: a bare `torch` may pull another build
PINS = Path(__file__).parent / ".ci" / "constraints.txt"
SHARED = {"venv_location": ".nox/shared", "reuse_venv": True}  # one environment for all sessions: torch is large


def install(session: nox.Session, *groups: str) -> None:
    """The project with its pinned dependencies and some dependency groups."""
    session.install(TORCH)
    needed = [requirement for group in groups for requirement in nox.project.dependency_groups(project(), group)]
    session.install("-c", str(PINS), "-e", ".", *needed)


def project() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return nox.project.load_toml("pyproject.toml")


@nox.session(**SHARED)
def conformance(session: nox.Session) -> None:
    """Verdict tables of all variants. `-- --variant lora`, `-- -k delora` or `-- -n 2` narrow or spread it."""
    install(session, "test")
    session.run("python", "-m", "pytest", "conformance/suites", "-p", "no:randomly", *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session(**SHARED)
def tests(session: nox.Session) -> None:
    """The project's own tests: lite, the references, the harness, and every known bug planted."""
    install(session, "test")
    folders = ("lite/tests", "refs/tests", "conformance/tests")
    session.run("python", "-m", "pytest", *folders, *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session(**SHARED)
def lint(session: nox.Session) -> None:
    """Ruff, ruff format and mypy strict, at zero."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(**SHARED)
def bench(session: nox.Session) -> None:
    """How long and how large the suites are: `pytest -k delora` beyond its imports, all three variants, peak memory."""
    install(session, "test")
    session.run("python", "-m", "conformance.bench", *session.posargs, env={"HF_HUB_OFFLINE": "1"})
