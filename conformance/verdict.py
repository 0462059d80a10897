"""Measurements and what they add up to."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Of a measurement, a check, a cell of the table; from best to worst."""

    NOT_APPLICABLE = "not applicable"
    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    CAPPED = "capped"
    DIVERGES = "diverges"
    UNTESTED = "untested"
    FAILS = "fails"
    ERROR = "error"

    @property
    def is_red(self) -> bool:
        """Whether a run with it exits non-zero."""
        return self in (Verdict.FAILS, Verdict.ERROR)


ORDER = list(Verdict)
PAIR = " – "  # between two references that are compared with each other
GROUP = ": "  # between what belongs together of a whole model, and the one quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One quantity of one check.

    candidate: whom it judges: lite, a reference, "yours", or a third party's layer. reference: whom it compares with, "itself" for checks of the candidate alone.
    version: which release, paper or commit that is.
    case, case_id: `repr` and short name; empty for checks that need no case.
    what: the quantity, e.g. grad.lora_A.
    error, bound, unit: numbers; 0, 0 and "" where there is nothing to measure but a fact.
    got, should: the two sides in words, for failures.
    reason: why it is untested, not applicable, or what is documented about it.
    evidence: False for what says nothing about the candidate (ill-conditioned tensors, refused cases).
    """

    variant: str
    candidate: str
    reference: str
    version: str
    check: str
    verdict: Verdict
    case: str = ""
    case_id: str = ""
    what: str = ""
    error: float = 0.0
    bound: float = 0.0
    unit: str = ""
    got: str = ""
    should: str = ""
    reason: str = ""
    evidence: bool = True

    @property
    def ratio(self) -> float:
        """The error in units of its bound; 0 where there is none."""
        return self.error / self.bound if self.bound else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for xdist's transport."""
        return {name: getattr(self, name) for name in self.__slots__} | {"verdict": str(self.verdict)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measurement":
        """Read `to_dict` back."""
        return cls(**(values | {"verdict": Verdict(values["verdict"])}))


def worst(measurements: Iterable[Measurement]) -> Verdict:
    """The verdict of a cell: the worst of those that apply; `untested` if there is no evidence at all."""
    everything = list(measurements)
    counted = [m.verdict for m in everything if m.evidence and m.verdict is not Verdict.NOT_APPLICABLE]
    if counted:
        return max(counted, key=ORDER.index)
    excused = everything and all(m.evidence for m in everything)
    return Verdict.NOT_APPLICABLE if excused else Verdict.UNTESTED


def by_cell(measurements: Iterable[Measurement]) -> dict[tuple[str, str], list[Measurement]]:
    """(check, reference) → its measurements, in the order of their first one."""
    grouped: dict[tuple[str, str], list[Measurement]] = {}
    for m in measurements:
        grouped.setdefault((m.check, m.reference), []).append(m)
    return grouped


def cells(measurements: Iterable[Measurement]) -> dict[tuple[str, str], Verdict]:
    """(check, reference) → verdict, in the order of their first measurement."""
    return {cell: worst(group) for cell, group in by_cell(measurements).items()}


def peak(measurements: Iterable[Measurement]) -> Measurement:
    """The measurement that a cell shows: what is red and furthest beyond its bound, else the largest error.

    Errors are compared in the unit of the one that is closest to its bound; a cell may hold several units.
    """
    everything = list(measurements)
    red = [m for m in everything if m.verdict.is_red]
    counted = red or [m for m in everything if m.evidence and m.verdict is not Verdict.NOT_APPLICABLE] or everything
    closest = max(counted, key=lambda m: m.error / m.bound if m.bound else m.error)
    return closest if red else max((m for m in counted if m.unit == closest.unit), key=lambda m: m.error)


def of_variant(cells: Iterable[Verdict], *, complete: bool = True, doc_gaps: Collection[str] = ()) -> str:
    """The verdict of a variant from those of its cells and what its documentation leaves out.

    complete: whether all cells were run; some of them are never a whole.
    """
    there = set(cells)
    if there & {Verdict.FAILS, Verdict.ERROR}:
        return "buggy"
    if not complete:
        return "partial: a narrowed run"
    if there & {Verdict.UNTESTED, Verdict.CAPPED} or not there - {Verdict.NOT_APPLICABLE}:
        return "partial"
    if doc_gaps:
        return "faithful, doc gap"
    return "faithful with documented divergence" if Verdict.DIVERGES in there else "faithful"


def rounded_up(value: float) -> str:
    """A number as text, rounded up to a power of two, so that the same machine gives the same text."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = math.frexp(abs(value))  # value = mantissa · 2^exponent, mantissa in [½, 1)
    exponent -= mantissa == 0.5
    if -4 <= exponent <= 20:
        return str(2**exponent)
    return f"2^{exponent}"
