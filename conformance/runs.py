"""Runs of implementations on cases. What cannot change within a process is computed once and shared by all checks."""

import functools

from torch import Tensor

from conformance.policy import distance
from refs.case import Case
from refs.closed_form import sensitivity, start_sensitivity
from refs.formula import Formula
from refs.problem import Problem, forget_problems, problem
from refs.subject import Implementation, Subject, Trace, run, run_at
from refs.threads import threads


def build(implementation: Implementation, case: Case, formula: Formula, numbers: Problem | None = None) -> Subject:
    """A fresh subject at its own init. numbers: another case's, to run them in this case's dtype."""
    with threads(case.threads):
        return implementation.build(case, numbers or problem(case, formula))


@functools.lru_cache(maxsize=4096)
def at_values(implementation: Implementation, case: Case, formula: Formula) -> Trace:
    """The trace with the case's parameters copied in."""
    return run_at(build(implementation, case, formula), case, problem(case, formula), formula)


@functools.lru_cache(maxsize=4096)
def oracle(implementation: Implementation, case: Case, formula: Formula) -> Trace:
    """The same numbers run in float64."""
    numbers = problem(case, formula)
    exact = case.but(dtype="float64", adapter_dtype=None)
    return run_at(build(implementation, exact, formula, numbers), exact, numbers, formula)


@functools.lru_cache(maxsize=4096)
def errors(implementation: Implementation, case: Case, formula: Formula) -> dict[str, float]:
    """Relative errors of its own beside the oracle, of every tensor of the trace that is not zero there."""
    own, exact = at_values(implementation, case, formula), oracle(implementation, case, formula)
    return {name: distance(own[name], exact[name]) for name in own if exact[name].any()}


@functools.lru_cache(maxsize=4096)
def at_own_init(implementation: Implementation, case: Case, formula: Formula, numbers: Problem | None = None) -> Trace:
    """The trace with the parameters the implementation started with. numbers: another case's."""
    numbers = numbers or problem(case, formula)
    return run(build(implementation, case, formula, numbers), case, numbers)


@functools.lru_cache(maxsize=4096)
def _kappa(case: Case, formula: Formula) -> dict[str, float]:
    return sensitivity(case, problem(case, formula), formula)


def kappa(case: Case, formula: Formula) -> dict[str, float]:
    """κ of every tensor of the trace. It belongs to the numbers and the function, not to how a case is run.

    float64 shares float32's, which are nearly the same numbers; not at init, where rounding decides whether the cotangent has a part
    along it.
    """
    shared = case.dtype == "float64" and case.state != "init"
    return _kappa(case.numbers.but(dtype="float32" if shared else case.dtype), formula)


@functools.lru_cache(maxsize=1024)
def start_kappa(case: Case, formula: Formula) -> dict[str, float]:
    """κ of what a method takes from a decomposition or from data at its start."""
    return start_sensitivity(case, problem(case, formula), formula)


@functools.lru_cache(maxsize=8192)
def started(implementation: Implementation, case: Case, formula: Formula, offset: int) -> dict[str, Tensor]:
    """The trainables at the implementation's own init, on the case's numbers, with the seed moved by `offset`."""
    subject = build(implementation, case.but(seed=case.seed + offset), formula, problem(case, formula))
    return {name: subject.read(name) for name in problem(case, formula).parameters if name in subject.map}


def forget() -> None:
    """Drop everything that was computed."""
    for cached in (at_values, oracle, errors, at_own_init, _kappa, start_kappa, started):
        cached.cache_clear()
    forget_problems()
