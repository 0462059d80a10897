"""AntiPaSTO's gain between components oriented by C = E[x xᵀ] + ε: W C^½ = U S Qᵀ, W′ = W + U diag(S·(gain − 1)) P, P = Q_rᵀ C^−½; recorded of lora-lite."""

import torch
from torch import Tensor

from refs import antipasto, basis
from refs.authors.recorded_layer import RecordedLayer
from refs.calibration import Calls
from refs.case import Case
from refs.formula import Tensors

DEFAULT_EPS = 1e-3


def eps(case: Case) -> float:
    """What is added to second moments."""
    return float(case.option("cov_eps", DEFAULT_EPS))


def moments(data: Calls) -> Tensor:
    """E[x xᵀ] of the layer's tokens (d_in, d_in)."""
    tokens = torch.cat(data["layer"])
    return tokens.T @ tokens / len(tokens)


def along(case: Case, weight: Tensor, root: Tensor, inverse: Tensor) -> Tensors:
    """The r largest components of W·root, with the root taken out again on the right."""
    r = basis.rank(case)
    U, S, Qh = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    U, S, right = U[:, :r], S[:r], Qh[:r] @ inverse
    # Rounding of Q grows by the root's condition; S Qᵀ root⁻¹ = UᵀW takes it back, in the one way that does not divide by small S.
    refined = right + (U.T @ weight - S[:, None] * right) / S.clamp(min=S.max() * 2.0**-26)[:, None]
    return {"lora_U": U, "lora_S": S, "lora_P": refined}


def frozen_from(case: Case, weight: Tensor, data: Calls) -> Tensors:
    """The symmetric root of C, its eigenvalues at least 0 before ε is added."""
    values, vectors = torch.linalg.eigh(moments(data))
    sizes = (torch.relu(values) + eps(case)).sqrt()
    return along(case, weight, vectors @ torch.diag(sizes) @ vectors.T, vectors @ torch.diag(1 / sizes) @ vectors.T)


FORMULA = basis.formula(
    antipasto.core,
    equation="W′ = W + U_r diag(S_r·(gain − 1)) P,  W C^½ = U S Qᵀ,  P = Q_rᵀ C^−½,  C = E[x xᵀ] + ε;  gain as in antipasto",
    source="wassname/lora-lite 5f9d90d",
    init=antipasto.init,
    frozen_from=frozen_from,
    least_tokens=basis.rank,
    gauge={"lora_U": (1,), "lora_P": (0,)},
    right="lora_P",
    states={"kink": basis.kink},
    promises=(basis.GAINS,),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_corda",
    equation="y = x W_resᵀ + b + (x Pᵀ·S·gain) Uᵀ;  W_res = W − U S P, decomposed in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight, whatever the dtype
)
