"""The tolerance policy. Bounds are derived from sensitivities and the reference's own error, never chosen (design: tolerances).

All functions take and return plain numbers and tensors; errors and bounds are in units of the dtype's unit roundoff u.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from conformance.verdict import Verdict, rounded_up

FUNCTION = 8.0  # float64 leg: bound is this · √n · max(κ, e32/u32) · u64
QUALITY_NORM, QUALITY_MAX = 4.0, 8.0  # lower dtypes: times the reference's own error, in the 2-norm and the max norm
FEW, FEW_FACTOR = 64, 4.0  # tensors this small are sometimes right by luck
ILL_CONDITIONED = 30.0  # κ above: shown, no evidence
CHAIN = 1000.0  # the same for whole models, in which every layer multiplies roundings: the bound is still below 1e-9 in float64
U32 = 2.0**-24
SQUARED = (2.0**-300, 2.0**300)  # beyond, squares of numbers or of their roundings underflow or overflow
RATIO = "× the reference's error"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the policy says about one tensor. `reason` where it does not apply or is no evidence."""

    verdict: Verdict
    error: float = 0.0
    bound: float = 0.0
    unit: str = ""
    got: str = ""
    should: str = ""
    reason: str = ""
    evidence: bool = True


def unit_roundoff(dtype: torch.dtype) -> float:
    """u: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def unit_name(dtype: torch.dtype) -> str:
    """What pages call u."""
    return {torch.float64: "u64", torch.float32: "u32", torch.bfloat16: "u(bf16)", torch.float16: "u(fp16)"}.get(
        dtype, f"u({dtype})"
    )


def distance(value: Tensor, truth: Tensor, order: float = 2.0) -> float:
    """‖value − truth‖/‖truth‖ in float64; 0 for equal tensors, infinite if only the truth is zero."""
    value, truth = value.detach().double(), truth.detach().double()
    if torch.equal(value, truth):
        return 0.0
    if not truth.any():
        return math.inf
    size = float(torch.linalg.vector_norm(truth, order))
    if not SQUARED[0] < size < SQUARED[1]:
        largest = truth.abs().max()
        value, truth = value / largest, truth / largest
        size = float(torch.linalg.vector_norm(truth, order))
    return float(torch.linalg.vector_norm(value - truth, order)) / size


def describe(tensor: Tensor) -> str:
    """Dtype and shape."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def structure(candidate: Tensor, reference: Tensor) -> Judgement | None:
    """Shape, dtype and finiteness, which come before values; None if these agree."""
    if candidate.shape != reference.shape or candidate.dtype != reference.dtype:
        return Judgement(Verdict.FAILS, math.inf, 0, "", describe(candidate), describe(reference))
    if not torch.isfinite(reference).all():
        return Judgement(Verdict.NOT_APPLICABLE, reason="the reference is not finite here")
    if not torch.isfinite(candidate).all():
        bad = int((~torch.isfinite(candidate)).sum())
        return Judgement(Verdict.FAILS, math.inf, 0, "", f"{bad} of {candidate.numel()} values not finite", "finite")
    return None


def same_bits(candidate: Tensor, reference: Tensor) -> Judgement:
    """Bit for bit, where the maths says so: identities, round trips, exact inits."""
    if wrong := structure(candidate, reference):
        return wrong
    if torch.equal(candidate, reference):
        return Judgement(Verdict.IDENTICAL)
    differing = int((candidate != reference).sum())
    unit = unit_roundoff(reference.dtype)
    got = f"{differing} of {reference.numel()} values differ"
    return Judgement(
        Verdict.FAILS, distance(candidate, reference) / unit, 0, unit_name(reference.dtype), got, "bit for bit the same"
    )


def float32_bound(*, n: int, kappa: float) -> float:
    """How far from what is exact a computation in float32 may be: the bound of float64, in that dtype."""
    return FUNCTION * math.sqrt(n) * kappa * U32


def exactly_zero(candidate: Tensor) -> Judgement:
    """The oracle is exactly zero: so must the candidate be."""
    largest = float(candidate.abs().max()) if candidate.numel() else 0.0
    return Judgement(Verdict.IDENTICAL if largest == 0 else Verdict.FAILS, largest, 0, "", f"up to {largest:.1e}", "exactly zero")


def same_function(
    candidate: Tensor, reference: Tensor, *, n: int, kappa: float, e32: float = 0.0, ill: float = ILL_CONDITIONED
) -> Judgement:
    """Function identity in float64. e32: the reference's own relative float32 error, 0 if it does not run in float32. ill: κ of what is no evidence."""
    if wrong := structure(candidate, reference):
        return wrong
    if torch.equal(candidate, reference):
        return Judgement(Verdict.IDENTICAL, unit="u64", bound=FUNCTION * math.sqrt(n) * max(kappa, e32 / U32))
    if not reference.any():
        return exactly_zero(candidate)
    error = distance(candidate, reference) / unit_roundoff(torch.float64)
    return _within(error, FUNCTION * math.sqrt(n) * max(kappa, e32 / U32), "u64", kappa, ill)


def no_less_accurate(
    candidate: Tensor, reference: Tensor, oracle: Tensor, *, kappa: float, ill: float = ILL_CONDITIONED
) -> Judgement:
    """Arithmetic quality below float64: the candidate may not be much less accurate than the reference itself."""
    if wrong := structure(candidate, reference):
        return wrong
    if torch.equal(candidate, reference):
        return Judgement(Verdict.IDENTICAL, unit=RATIO, bound=QUALITY_NORM)
    if not oracle.any():
        return exactly_zero(candidate)
    floor = kappa * unit_roundoff(reference.dtype) * (FEW_FACTOR if reference.numel() < FEW else 1.0)
    ratios = [
        (distance(candidate, oracle, order) / max(distance(reference, oracle, order), floor), bound)
        for order, bound in ((2.0, QUALITY_NORM), (math.inf, QUALITY_MAX))
    ]
    error, bound = max(ratios, key=lambda leg: leg[0] / leg[1])
    return _within(error, bound, RATIO, kappa, ill)


def another_order(candidate: Tensor, reference: Tensor, terms: Tensor, *, n: int) -> Judgement:
    """Where the maths says the same number: bit for bit, or the same sum of n terms in another order. terms: the sum of their sizes,
    |x||W|ᵀ + |b|, which roundings are relative to; the shape of the reference.
    """
    judgement = same_bits(candidate, reference)
    comparable = candidate.dtype == reference.dtype and candidate.shape == reference.shape
    if judgement.verdict is not Verdict.FAILS or not comparable or not torch.isfinite(candidate).all():
        return judgement
    gap = (candidate.double() - reference.double()).abs()
    error = float(torch.where(gap > 0, gap / terms, 0.0).max()) / unit_roundoff(reference.dtype)
    bound = 2 * math.sqrt(n)
    if not error <= bound:
        return judgement
    return Judgement(Verdict.EQUIVALENT, error, bound, f"{unit_name(reference.dtype)} of |x||W|")


def same_output(candidate: Tensor, reference: Tensor, *, n: int, kappa: float) -> Judgement:
    """A whole model's output in its own dtype, of layers that are the same up to roundings. kappa: how far the output moves, relative and
    in units of u, when every such layer's output is moved by one.
    """
    judgement = same_bits(candidate, reference)
    if judgement.verdict is not Verdict.FAILS or not math.isfinite(judgement.error) or not reference.any():
        return judgement
    return _within(judgement.error, FUNCTION * math.sqrt(n) * kappa, judgement.unit, 1.0)


def _within(error: float, bound: float, unit: str, kappa: float, ill: float = ILL_CONDITIONED) -> Judgement:
    verdict = Verdict.EQUIVALENT if error <= bound else Verdict.FAILS
    if kappa > ill:
        reason = f"ill-conditioned (κ > {ill:.0f}): shown, no evidence"
        return Judgement(Verdict.NOT_APPLICABLE, error, bound, unit, reason=reason, evidence=False)
    return Judgement(verdict, error, bound, unit, f"off by {rounded_up(error)} {unit}", f"at most {bound:.2g} {unit}")
