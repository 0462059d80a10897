"""A pytest plugin: where the time of a suite goes. `-p conformance.bench.phases --phases FILE`; importing it times the imports, too."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

OTHER = "pytest"  # collecting, fixtures, and everything that is none of the others


class Clock:
    """Seconds by phase. What runs inside of another phase counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stack = [OTHER]
        self.last = time.perf_counter()

    def switch(self) -> None:
        """Book what has passed since the last switch."""
        now = time.perf_counter()
        self.seconds[self.stack[-1]] = self.seconds.get(self.stack[-1], 0.0) + now - self.last
        self.last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book what happens within under a phase."""
        self.switch()
        self.stack.append(name)
        try:
            yield
        finally:
            self.switch()
            self.stack.pop()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, booked under a phase."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return function(*args, **kwargs)

        return wrapper

    def patch(self, owner: Any, phase: str, *names: str) -> None:
        """Book these functions of a module or class."""
        for name in names:
            setattr(owner, name, self.timed(phase, getattr(owner, name)))


CLOCK = Clock()


def _imported() -> None:
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    # Each before what uses it is imported, so that all get the timed ones.
    import refs.problem

    CLOCK.patch(refs.problem, "building", "problem", "base")
    import lite
    import refs.closed_form
    import refs.subject

    CLOCK.patch(refs.subject, "running", "run", "run_at")
    CLOCK.patch(refs.closed_form, "running", "sensitivity", "start_sensitivity")
    CLOCK.patch(lite, "building", "attach", "detach", "load", "save")
    CLOCK.patch(torch.nn.Module, "running", "__call__")
    CLOCK.patch(torch.autograd, "running", "grad", "backward")
    import conformance.jobs
    import conformance.runs

    CLOCK.patch(conformance.runs, "building", "build")
    CLOCK.patch(conformance.jobs.Job, "comparing", "measure")


CLOCK.timed("imports", _imported)()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to."""
    parser.addoption("--phases", type=Path, required=True, help="where the seconds by phase are written, in JSON")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Generator[None]:
    """What becomes of the measurements."""
    yield from _reporting()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Certificates and pages."""
    yield from _reporting()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(config: pytest.Config) -> Generator[None]:
    """Tables."""
    yield from _reporting()


def _reporting() -> Generator[None]:
    with CLOCK.phase("reporting"):
        yield


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write them down."""
    CLOCK.switch()
    config.getoption("--phases").write_text(json.dumps(CLOCK.seconds), encoding="utf-8")
