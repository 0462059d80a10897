"""ASVD: PiSSA's split of W with its columns scaled by the sizes of the layer's inputs (arXiv:2312.05821 §3). peft has none."""

import torch
from torch import Tensor

from refs import lora, pissa
from refs.calibration import Calls, batches, calls
from refs.case import Case
from refs.formula import Formula, Init, Tensors

DEFAULT_ACT_ALPHA = 0.5
LEAST_SCALE = 1e-6


def scales(case: Case, each_call: list[Tensor]) -> Tensor:
    """c (d_in,): a power of the inputs' mean sizes, added up over calls, or of their largest sizes."""
    if case.option("scaling_method", "abs_mean") == "abs_mean":
        sizes = torch.stack([x.abs().mean(dim=0) for x in each_call]).sum(dim=0)
    else:
        sizes = torch.cat(each_call).abs().max(dim=0).values
    c: Tensor = sizes ** case.option("act_alpha", DEFAULT_ACT_ALPHA) + LEAST_SCALE
    return c


def init_from(case: Case, weight: Tensor, data: Calls) -> dict[str, Init]:
    """The leading singular triples of W diag(c), with c taken out again on the right."""
    c, r = scales(case, data["layer"]), lora.rank(case)
    U, S, Vh = torch.linalg.svd(weight.double() * c, full_matrices=False)
    return pissa.balanced(case, U[:, :r], S[:r], Vh[:r] / c)


def has_residual(case: Case) -> bool:
    """Whether the rest of the weight stays beside its part."""
    return bool(case.option("residual", True))


def residual(case: Case, weight: Tensor, start: Tensors) -> Tensor:
    """What is left of W, or nothing."""
    return pissa.residual(case, weight, start) if has_residual(case) else torch.zeros_like(weight)


def condition(case: Case, weight: Tensor) -> float:
    """Of diag(c), which is inverted: what a reference's rounding is multiplied by."""
    c = scales(case, calls(batches(case), labels=False)["layer"])
    return float(c.max() / c.min())


FORMULA = Formula(
    equation="W′ = W_res + s·B A,  W_res = W − s·B₀A₀ (residual=False: 0),  A₀ = √(S_r/s) V_rᵀ diag(c)⁻¹,  B₀ = U_r √(S_r/s),  "
    "W diag(c) = U S Vᵀ,  c_j = s_j^act_alpha + 1e-6,  s_j = Σ_calls mean_t |x_tj| or max_t |x_tj|",
    source="arXiv:2312.05821 §3",
    init_from=init_from,
    residual=residual,
    condition=condition,
    copied=True,
    gauge=pissa.GAUGE,
    adapted=pissa.adapted,
    moved=pissa.moved,
    identity=has_residual,
    scale=lora.scale,
)
