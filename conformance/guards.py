"""Guards: a case that could not see a bug makes no measurement."""

import functools

from conformance.runs import at_values
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.formula import Formula
from refs.problem import base, problem, start

LEAST_EFFECT, MOST_EFFECT = 1e-2, 10.0


@functools.lru_cache(maxsize=4096)
def unguarded(case: Case, formula: Formula, *, edges: bool = False) -> str | None:
    """Why this case could hide a bug, or None. edges: let rank 1 pass, which hides some bugs and shows others."""
    if not (edges and case.rank == 1) and (reason := _hides_rank_or_scale(case, formula)):
        return reason
    if idle := [name for name, _ in case.options if not _option_matters(case, name, formula)]:
        return f"option {', '.join(idle)} changes nothing here"
    return _perturbed_case_is_blind(case, formula) if case.state != "init" else None


def _hides_rank_or_scale(case: Case, formula: Formula) -> str | None:
    if case.rank is not None and case.rank < 2:
        return f"rank {case.rank}: at least 2 separates rows from columns"
    if formula.scale and formula.scale(case) in (1, case.alpha) and not _is_never_scaled(case, formula):
        return f"the scale is {formula.scale(case):g}: 1 and alpha hide a wrong one"
    return None


def _is_never_scaled(case: Case, formula: Formula) -> bool:
    """Whether a scale of one is what the method does without alpha, not what this rank happens to give."""
    other = case.but(rank=2 * (case.rank or 1))
    return case.alpha is None and bool(formula.scale) and formula.scale(other) == 1  # type: ignore[misc]


def _perturbed_case_is_blind(case: Case, formula: Formula) -> str | None:
    numbers = problem(case, formula)
    if not LEAST_EFFECT <= numbers.effect <= MOST_EFFECT:
        return f"the adapter moves the output by {numbers.effect:.1e} of its norm, should be {LEAST_EFFECT} … {MOST_EFFECT}"
    trace = at_values(ClosedForm(formula), case.but(dtype="float64", adapter_dtype=None, mode="train", threads=1), formula)
    dead = [name for name in numbers.parameters if not trace[f"grad.{name}"].any()]
    return f"{', '.join(dead)} has no gradient" if dead else None


def _option_matters(case: Case, name: str, formula: Formula) -> bool:
    """Whether leaving the option out changes the start or the function; dropout shows in train mode by itself."""
    if name == "dropout":
        return bool(case.option(name, 0.0))
    if name in formula.unseen:
        return True
    without = case.without(name)
    weight, bias, _ = base(case)
    try:
        here, there = (start(c, formula, weight) | formula.begin(c, weight).frozen for c in (case, without))
    except ValueError:  # there is no such layer without it
        return True
    if here.keys() != there.keys() or any(not here[key].equal(there[key]) for key in here):
        return True
    numbers = problem(case.but(state="perturbed"), formula)
    values = numbers.parameters | numbers.frozen
    pairs = zip(formula.adapted(case, weight, bias, values), formula.adapted(without, weight, bias, values), strict=True)
    return any(one is not None and other is not None and not one.equal(other) for one, other in pairs)
