"""AntiPaSTO's gain: W′ = W + U diag(S·(gain − 1)) V_rᵀ, gain = 1 + ELU(coeff·g); recorded of lora-lite."""

from collections.abc import Mapping

import torch
from torch import Tensor

from refs import basis
from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.formula import Exactly, Init


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Every gain at one."""
    return {"lora_g": Exactly(torch.zeros(basis.rank(case), dtype=torch.float64))}


def core(case: Case, p: Mapping[str, Tensor]) -> Tensor:
    """Singular values times gains."""
    return torch.diag(p["lora_S"] * basis.gain(case, p["lora_g"]))


FORMULA = basis.formula(
    core,
    equation="W′ = W + U_r diag(S_r·(gain − 1)) V_rᵀ,  gain = e^z (z ≤ 0), 1 + z (z > 0),  z = coeff·g,  g₀ = 0",
    source="wassname/lora-lite ef69c88",
    init=init,
    states={"kink": basis.kink},
    promises=(basis.GAINS,),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_gain",
    equation="y = x W_resᵀ + b + (x V·S·gain) Uᵀ,  gain = 1 + ELU(coeff·g);  W_res = W − U_r S_r V_rᵀ, decomposed in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight, whatever the dtype
)
