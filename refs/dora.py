"""DoRA: W′ = (m/n) ∘ V, V = W + s·BA, n_i = ‖V_i‖₂ per output row held constant (arXiv:2402.09353 eq. 5, §4.3)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import peft
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor

from refs import lora
from refs.case import Case
from refs.formula import Exactly, Formula, Init, Tensors
from refs.peft_layer import ADAPTER, PeftLayer


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """LoRA's, and the row norms of W."""
    return lora.init(case, weight) | {"lora_m": Exactly(weight.norm(dim=1))}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of the formula; the bias is not scaled."""
    V = lora.adapted(case, weight, None, p)[0]
    return (p["lora_m"] / V.norm(dim=1).detach())[:, None] * V, bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """LoRA's move, and the magnitudes by up to the same strength, relative."""
    m = start["lora_m"] * (1 + min(strength, 0.2) * noise["lora_m"] / 2)
    return lora.moved(case, start, noise, strength) | {"lora_m": m}


def negative(case: Case, perturbed: Tensors) -> Tensors:
    """Every other magnitude below zero: nothing keeps it positive in training."""
    m = perturbed["lora_m"].clone()
    m[::2] *= -1
    return perturbed | {"lora_m": m}


FORMULA = Formula(
    equation="W′ = (m/n) ∘ V,  V = W + s·B A,  n_i = ‖V_i‖₂ per output row, a constant for the gradient (§4.3)",
    source="arXiv:2402.09353 eq. 5 and §4.3",
    init=init,
    adapted=adapted,
    moved=moved,
    states={"negative": negative},
    scale=lora.scale,
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init of A and B, then of the magnitude."""
    lora.reset(layer, case)
    layer.lora_magnitude_vector[ADAPTER].update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER].weight,
        lora_B=layer.lora_B[ADAPTER].weight,
        scaling=layer.scaling[ADAPTER],
    )


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's DoRA, through the variant's map."""
    return PeftLayer(
        config=partial(peft.LoraConfig, use_dora=True),
        words=lora.WORDS,
        reset=reset,
        map=names,
        formula=FORMULA,
        code=DoraLinearLayer.forward,
        equation=(
            "y = base(x) + (m/n − 1) ∘ (base(x) − b) + (m/n) ∘ s·B(A(x)),  n detached;  "
            "dropout > 0 in training: x is dropped and base(x) − b becomes x Wᵀ"
        ),
        kinds=("linear", "conv1d"),
    )
