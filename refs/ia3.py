"""IA3 on the output: W′ = diag(g)·W, b′ = g ∘ b (arXiv:2205.05638 §3.3)."""

import functools
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.ia3.layer import Linear
from torch import Tensor

from refs.case import Case
from refs.formula import Exactly, Formula, Init, Tensors
from refs.peft_layer import ADAPTER, PeftLayer


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """All gains one."""
    return {"lora_g": Exactly(torch.ones(weight.shape[0], dtype=torch.float64))}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows of the weight, and the bias, times their gain."""
    g = p["lora_g"]
    return g[:, None] * weight, None if bias is None else g * bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Gains around one."""
    return {"lora_g": start["lora_g"] + strength * noise["lora_g"]}


def negative(case: Case, perturbed: Tensors) -> Tensors:
    """Every second gain below zero: nothing keeps it positive in training."""
    g = perturbed["lora_g"].clone()
    g[::2] *= -1
    return {"lora_g": g}


def closed(case: Case, perturbed: Tensors) -> Tensors:
    """Every second gain exactly zero, where a division by it would lose the weight."""
    g = perturbed["lora_g"].clone()
    g[::2] = 0
    return {"lora_g": g}


FORMULA = Formula(
    equation="W′ = diag(g)·W,  b′ = g ∘ b",
    source="arXiv:2205.05638 §3.3, l_k and l_v",
    init=init,
    adapted=adapted,
    moved=moved,
    states={"negative": negative, "closed": closed},
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init."""
    layer.reset_ia3_parameters(ADAPTER)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's IA3 on a target outside of its feed-forward modules, through the variant's map."""
    return PeftLayer(
        config=functools.partial(peft.IA3Config, feedforward_modules=[]),
        words={},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=Linear.forward,
        equation="y = base(x) ∘ ia3_l",
        kinds=("linear", "conv1d"),
    )
