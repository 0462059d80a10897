"""AntiPaSTO's gain between components oriented by sizes: c_i = √(E[x_i²] + ε), W diag(c) = U S Qᵀ, W′ = W + U diag(S·(gain − 1)) P, P = Q_rᵀ diag(c)⁻¹; recorded of lora-lite."""

import torch
from torch import Tensor

from refs import antipasto, antipasto_corda, basis
from refs.authors.recorded_layer import RecordedLayer
from refs.calibration import Calls
from refs.case import Case
from refs.formula import Tensors


def frozen_from(case: Case, weight: Tensor, data: Calls) -> Tensors:
    """With the root of C's diagonal."""
    sizes = (antipasto_corda.moments(data).diagonal() + antipasto_corda.eps(case)).sqrt()
    return antipasto_corda.along(case, weight, torch.diag(sizes), torch.diag(1 / sizes))


FORMULA = basis.formula(
    antipasto.core,
    equation="W′ = W + U_r diag(S_r·(gain − 1)) P,  W diag(c) = U S Qᵀ,  P = Q_rᵀ diag(c)⁻¹,  c_i = √(E[x_i²] + ε);  gain as in antipasto",
    source="wassname/lora-lite 7e024b4",
    init=antipasto.init,
    frozen_from=frozen_from,
    least_tokens=basis.rank,
    gauge={"lora_U": (1,), "lora_P": (0,)},
    right="lora_P",
    states={"kink": basis.kink},
    promises=(basis.GAINS,),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_asvd",
    equation="y = x W_resᵀ + b + (x Pᵀ·S·gain) Uᵀ;  W_res = W − U S P, decomposed in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight, whatever the dtype
)
