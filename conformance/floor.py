"""The detection floor: the smallest error in a layer that turns its verdict, found by bisection."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conformance import policy, runs
from conformance.checks.function import compare, compare_below, float32_errors
from conformance.fault import DELTA, INPUT, KINDS, Fault, Faulty
from conformance.suite import Reference, Suite
from conformance.suite_of import suite_of
from conformance.trial import Trial
from refs.case import Case
from refs.problem import Problem, problem
from refs.subject import Subject
from refs.threads import one_thread

D_IN, D_OUT, RANK, ALPHA, BATCH = 256, 192, 8, 12.0, (3, 8)
DTYPES = ("float64", "float32", "bfloat16", "float16")
SMALLEST, LARGEST, STEPS = -60, 2, 4  # exponents of two that are tried, and steps between two of them
GOALS = {"scale": 1e-13, "element": 1e-11}  # in float64; a run that cannot see these is void


@dataclass(frozen=True, slots=True)
class Floor:
    """The smallest size of one fault that turns the verdict against one reference; None if none does.

    allowance: by how much the bound on the tensor is wider than that of a well-conditioned one (refs: κ, or the reference's own
    float32 error in u32, whichever is larger); 1 below float64, where bounds are multiples of the reference's error.
    """

    variant: str
    reference: str
    dtype: str
    tensor: str
    kind: str
    size: float | None
    allowance: float

    @property
    def goal(self) -> float | None:
        """What the floor has to be at most, if anything: a scale everywhere, one element of a gradient, both in float64."""
        asked = self.dtype == "float64" and not (self.kind == "element" and self.tensor == DELTA)
        return GOALS.get(self.kind) if asked else None

    @property
    def text(self) -> str:
        """For a table."""
        if self.size is None:
            return "not seen"
        return "any" if self.size == 2.0**SMALLEST else f"{self.size:.1e}"


def case_for(suite: Suite) -> Case:
    """The suite's first case, 256 wide, and not square."""
    plain = suite.cases[0]
    size = {"rank": RANK if plain.rank else None, "alpha": ALPHA if plain.alpha else None}
    return suite.fit(plain.but(d_in=D_IN, d_out=D_OUT, batch=BATCH, **size))


def void(found: Sequence[Floor]) -> list[str]:
    """The goals that no reference meets, and the faults that none sees at all: a run that cannot see such an error, or tried none, says nothing."""
    best: dict[tuple[str, str], Floor] = {}
    for floor in found:
        key = (floor.tensor, floor.kind)
        if floor.dtype == "float64" and (key not in best or _size(floor) < _size(best[key])):
            best[key] = floor
    if not best:
        return ["floor in float64 is missing: nothing was measured"]
    return [
        f"{floor.kind} of {floor.tensor} is {'not seen' if floor.size is None else f'seen from {floor.text} on'}, should be"
        + (f" from {floor.goal:g} on" if floor.goal is not None else "")
        for floor in best.values()
        if _size(floor) > (math.inf if floor.goal is None else floor.goal) or floor.size is None
    ]


def wide(found: Iterable[Floor]) -> list[str]:
    """The cells above their goal, with what makes their bound so wide."""
    return [
        f"{floor.kind} of {floor.tensor} against {floor.reference}: {floor.text}, because the bound is {floor.allowance:.0f} times that of a well-conditioned tensor"
        for floor in found
        if floor.goal is not None and _size(floor) > floor.goal
    ]


def _size(floor: Floor) -> float:
    return math.inf if floor.size is None else floor.size


def grid(found: Sequence[Floor]) -> list[list[str]]:
    """A table: a header, then a row per tensor and kind; a column per reference and dtype."""
    columns = list(dict.fromkeys((f.reference, f.dtype) for f in found))
    rows = list(dict.fromkeys((f.tensor, f.kind) for f in found))
    by_place = {(f.tensor, f.kind, f.reference, f.dtype): f.text for f in found}
    header = ["of", "fault", *(" ".join(column) for column in columns)]
    return [header, *([*row, *(by_place.get((*row, *column), "") for column in columns)] for row in rows)]


def floors(variant: str) -> tuple[Floor, ...]:
    """Every floor of a variant: each reference that is here, each dtype that it runs in, each tensor, each kind of fault."""
    with one_thread():
        return tuple(_floors(suite_of(variant)))


def _floors(suite: Suite) -> Iterator[Floor]:
    case = case_for(suite)
    faults = list(_faults(problem(case, suite.formula)))
    for reference in suite.all_references:
        if reference.missing():
            continue
        for dtype in DTYPES:
            one = case.but(dtype=dtype)
            if not reference.refuses(one):
                for fault in faults:
                    size, allowance = _bisect(suite, reference, one, fault), _allowance(suite, reference, one, fault)
                    yield Floor(suite.variant, reference.name, dtype, fault.tensor, fault.kind, size, allowance)


def _faults(numbers: Problem) -> Iterator[Fault]:
    """Of what the layer adds, of the input's gradient and of every parameter's."""
    for name, tensor in {DELTA: numbers.cotangent, INPUT: numbers.x, **numbers.parameters}.items():
        yield from (Fault(kind, name) for kind in KINDS if kind != "row" or tensor.dim() > 1)


@functools.lru_cache(maxsize=8)
def _sound(suite: Suite, case: Case, numbers: Problem) -> Subject:
    """Built once, bent many times."""
    return runs.build(suite.candidate, case, suite.formula, numbers)


def _bisect(suite: Suite, reference: Reference, case: Case, fault: Fault) -> float | None:
    low, high = SMALLEST * STEPS - 1, LARGEST * STEPS  # the fault is not seen at low, it is seen at high
    if not _seen(suite, reference, case, fault, 2.0 ** (high / STEPS)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _seen(suite, reference, case, fault, 2.0 ** (middle / STEPS)):
            high = middle
        else:
            low = middle
    return math.pow(2.0, high / STEPS)


def _allowance(suite: Suite, reference: Reference, case: Case, fault: Fault) -> float:
    if case.dtype != "float64":
        return 1.0
    name = "output" if fault.tensor == DELTA else f"grad.{fault.tensor}"
    trial = Trial(suite=suite, check="detection floor", candidate=suite.candidate, reference=reference)
    return max(runs.kappa(case, suite.formula)[name], float32_errors(trial, case).get(name, 0.0) / policy.U32)


def _seen(suite: Suite, reference: Reference, case: Case, fault: Fault, size: float) -> bool:
    """Whether the checks that compare functions turn red."""
    candidate = Faulty(functools.partial(_sound, suite), fault, size)
    trial = Trial(suite=suite, check="detection floor", candidate=candidate, reference=reference)
    if case.dtype == "float64":
        compare(trial, [case], outputs=True)
        compare(trial, [case], outputs=False)
    else:
        compare_below(trial, [case])
    return any(m.verdict.is_red for m in trial.measured)
