"""AntiPaSTO's gain between components oriented by C = E[x xᵀ] + ε: W C^½ = U S Qᵀ, W′ = W + U diag(S·(gain − 1)) P, P = Q_rᵀ C^−½; recorded of lora-lite."""

import torch
from torch import Tensor

from refs import antipasto, basis
from refs.authors.recorded_layer import RecordedLayer
from refs.calibration import Calls, batches, calls
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


def roots(case: Case, data: Calls) -> tuple[Tensor, Tensor]:
    """The root of every eigenvalue of C, at least 0 before ε is added; the eigenvectors (d_in, d_in)."""
    values, vectors = torch.linalg.eigh(moments(data))
    return (torch.relu(values) + eps(case)).sqrt(), vectors


def along(case: Case, weight: Tensor, root: Tensor, inverse: Tensor) -> Tensors:
    """The r largest components of W·root, with the root taken out again on the right."""
    U, S, Qh = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    r = basis.rank(case)
    return {"lora_U": U[:, :r], "lora_S": S[:r], "lora_P": Qh[:r] @ inverse}


def frozen_from(case: Case, weight: Tensor, data: Calls) -> Tensors:
    """With the symmetric root of C."""
    sizes, vectors = roots(case, data)
    return along(case, weight, vectors @ torch.diag(sizes) @ vectors.T, vectors @ torch.diag(1 / sizes) @ vectors.T)


def condition(case: Case, weight: Tensor) -> float:
    """Of C^½, which is inverted: what a reference's rounding is multiplied by."""
    sizes, _ = roots(case, calls(batches(case), labels=False))
    return float(sizes.max() / sizes.min())


FORMULA = basis.formula(
    antipasto.core,
    equation="W′ = W + U_r diag(S_r·(gain − 1)) P,  W C^½ = U S Qᵀ,  P = Q_rᵀ C^−½,  C = E[x xᵀ] + ε;  gain as in antipasto",
    source="wassname/lora-lite 5f9d90d",
    init=antipasto.init,
    frozen_from=frozen_from,
    condition=condition,
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
