"""AntiPaSTO's diagonal-plus-low-rank core: W′ = W + U (diag(S·(gain − 1)) + coeff·B A) V_rᵀ; recorded of lora-lite."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from refs import antipasto, basis
from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.formula import Exactly, Init, Tensors, Uniform

DEFAULT_LORA_RANK = 8


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Every gain at one, A random, B zero."""
    r, k = basis.rank(case), case.option("lora_rank", DEFAULT_LORA_RANK)
    B = torch.zeros(r, k, dtype=torch.float64)
    return antipasto.init(case, weight) | {"lora_A": Uniform(r**-0.5, (k, r)), "lora_B": Exactly(B)}


def core(case: Case, p: Mapping[str, Tensor]) -> Tensor:
    """Singular values times gains, and the product of rank k."""
    return antipasto.core(case, p) + basis.coeff(case) * p["lora_B"] @ p["lora_A"]


def _gains_alone(parameters: Tensors) -> Tensors:
    given = basis.GAINS.at(parameters)
    return given | {"lora_B": torch.zeros_like(given["lora_B"])}


FORMULA = basis.formula(
    core,
    equation="W′ = W + U_r (diag(S_r·(gain − 1)) + coeff·B A) V_rᵀ,  gain as in antipasto;  A (k, r) ~ U(±1/√r),  B₀ = 0,  g₀ = 0",
    source="wassname/lora-lite ef69c88",
    init=init,
    states={"kink": basis.kink},
    gauge={"lora_U": (1,), "lora_Vh": (0,), "lora_A": (1,), "lora_B": (0,)},
    promises=(replace(basis.GAINS, at=_gains_alone),),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_dplr",
    equation="y = x W_resᵀ + b + (p·S·gain + coeff·(p Aᵀ) Bᵀ) Uᵀ,  p = x V;  W_res = W − U_r S_r V_rᵀ, decomposed in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight, whatever the dtype
)
