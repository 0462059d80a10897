"""HRA: W′ = W·H_1·…·H_r, H_i = I − 2 u_i u_iᵀ/‖u_i‖² (arXiv:2405.17484), formed densely, one reflection after the other."""

from collections.abc import Mapping
from typing import Any

import peft
from peft.tuners.hra.layer import HRALinear
from torch import Tensor

from refs.case import Case
from refs.formula import Formula, Init, Tensors, Uniform
from refs.numbers import normal
from refs.peft_layer import ADAPTER, PeftLayer

DEFAULT_RANK = 8


def rank(case: Case) -> int:
    """r of a case, or its default."""
    return case.rank or DEFAULT_RANK


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Every row twice, so that the reflections cancel."""
    r = rank(case)
    return {"lora_U": Uniform((r / 2) ** -0.5, (r, weight.shape[1]), copies=2)}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The weight, reflected r times from the right, H_1 first."""
    for u in p["lora_U"]:
        weight = weight - (weight @ u)[:, None] * u * (2 / (u @ u))
    return weight, bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Rows around their start, whose pairs no longer cancel."""
    return {"lora_U": start["lora_U"] + strength * noise["lora_U"]}


def parallel(case: Case, perturbed: Tensors) -> Tensors:
    """Rows that differ from each other by a millionth, but for the last one, which is where it was."""
    U = perturbed["lora_U"].clone()
    U[1:-1] = U[0] + 2.0**-20 * normal(case.seed, "parallel", shape=tuple(U[1:-1].shape))
    return {"lora_U": U}


def unpaired(case: Case, perturbed: Tensors) -> Tensors:
    """Rows that have nothing to do with each other, of lengths from 1/16 to 16."""
    noise = normal(case.seed, "unpaired", shape=tuple(perturbed["lora_U"].shape))
    lengths = [2.0 ** (8 * i / (len(noise) - 1) - 4) for i in range(len(noise))]
    return {"lora_U": noise * noise.new_tensor(lengths)[:, None]}


FORMULA = Formula(
    equation="W′ = W·H_1·…·H_r,  H_i = I − 2 u_i u_iᵀ/‖u_i‖²",
    source="arXiv:2405.17484 §3",
    init=init,
    adapted=adapted,
    moved=moved,
    states={"parallel": parallel, "unpaired": unpaired},
    steps=lambda case: 4 * rank(case),  # of each reflection: a product, a division, a factor, a difference
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init; it puts a new parameter in the place of the old one."""
    layer.reset_hra_parameters(ADAPTER)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's HRA, through the variant's map."""
    return PeftLayer(
        config=peft.HRAConfig,
        words={"rank": "r"},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=HRALinear.forward,
        equation="y = x (W·∏_i (I − 2 v_i v_iᵀ))ᵀ + b,  v_i = hra_u[:, i]/‖hra_u[:, i]‖",
    )
