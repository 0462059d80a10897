"""AntiPaSTO's arrow: W′ = W + U K V_rᵀ, K a free block times S on the first b components, gains on the others; recorded of lora-lite."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from refs import basis
from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.formula import Exactly, Init

DEFAULT_BLOCK = 8


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Nothing mixed, every gain at one; ValueError where the block leaves no component for one."""
    r, b = basis.rank(case), case.option("block", DEFAULT_BLOCK)
    if b >= r:
        raise ValueError(f"a block of {b} out of {r} components leaves none for a gain")
    shapes = {"lora_M": (b, b), "lora_g": (r - b,)}
    return {name: Exactly(torch.zeros(shape, dtype=torch.float64)) for name, shape in shapes.items()}


def core(case: Case, p: Mapping[str, Tensor]) -> Tensor:
    """(I + coeff·M) diag(S) of the first components, singular values times gains of the others."""
    S, b, others = p["lora_S"], len(p["lora_M"]), len(p["lora_g"])
    block = S[:b] * (torch.eye(b, dtype=S.dtype) + basis.coeff(case) * p["lora_M"])
    return pad(block, (0, others, 0, others)) + pad(torch.diag(S[b:] * basis.gain(case, p["lora_g"])), (b, 0, b, 0))


FORMULA = basis.formula(
    core,
    equation="W′ = W + U_r (K − diag S_r) V_rᵀ,  K = [(I + coeff·M) diag S_b, 0; 0, diag(S_rest·gain)],  gain as in antipasto;  M₀ = 0,  g₀ = 0",
    source="wassname/lora-lite a5999bd",
    init=init,
    states={"kink": basis.kink},
    gauge={"lora_U": (1,), "lora_Vh": (0,), "lora_M": (0, 1)},
    promises=(basis.GAINS,),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_arrow",
    equation="y = x W_resᵀ + b + [h_b (I + coeff·M)ᵀ, h_rest·gain] Uᵀ,  h = (x V)·S;  W_res = W − U_r S_r V_rᵀ, decomposed in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight, whatever the dtype
)
