"""Real layers that somebody brings along: while one is looked at, a case of the weight kind "given:NAME" runs on its numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from refs.case import Case

KIND = "given:"


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A layer's weight (d_out, d_in), bias (d_out,) or None, and what it received, x (…, d_in)."""

    weight: Tensor
    bias: Tensor | None
    x: Tensor


_HERE: dict[str, Given] = {}


@contextmanager
def here(name: str, numbers: Given) -> Iterator[None]:
    """Answer for this name inside the block. What was computed of it is the caller's to forget (`refs.problem.forget_problems`)."""
    _HERE[name] = numbers
    try:
        yield
    finally:
        del _HERE[name]


def of(case: Case) -> Given | None:
    """The numbers that a case runs on, if it does; ValueError if they are not here, or of other sizes than the case says."""
    if not case.weight.startswith(KIND):
        return None
    found = _HERE.get(case.weight.removeprefix(KIND))
    if found is None:
        raise ValueError(f"{case.weight}: nobody brought that layer; here: {', '.join(_HERE) or 'none'}")
    if tuple(found.weight.shape) != (case.d_out, case.d_in):
        raise ValueError(f"{case.weight} has a weight {tuple(found.weight.shape)}; the case says {(case.d_out, case.d_in)}")
    return found
