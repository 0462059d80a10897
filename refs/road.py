"""RoAd: W′ = R·W, b′ = R·b, R of 2 × 2 blocks α·(cos θ, −sin θ; sin θ, cos θ) (arXiv:2409.00119 eq. 4), formed densely.

The paper pairs neighbours; peft pairs output i of a group's first half with i + group_size/2, and so does this form.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refs.case import Case
from refs.formula import Exactly, Formula, Init, Tensors
from refs.installed import installed
from refs.peft_layer import ADAPTER, PeftLayer

DEFAULT_VARIANT, DEFAULT_GROUP = "road_1", 64
PER_OUTPUT = {"road_1": 0.5, "road_2": 1, "road_4": 2}


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """No angle, no stretch; ValueError where a group does not divide d_out."""
    d_out = weight.shape[0]
    if d_out % (g := group_size(case, d_out)):
        raise ValueError(f"group_size should divide d_out = {d_out}, got {g}")
    size = int(d_out * PER_OUTPUT[case.option("road_variant", DEFAULT_VARIANT)])
    return {
        "lora_theta": Exactly(torch.zeros(size, dtype=torch.float64)),
        "lora_alpha": Exactly(torch.ones(size, dtype=torch.float64)),
    }


def group_size(case: Case, d_out: int) -> int:
    """Outputs in a group. A default one that is larger than the layer ends with it."""
    size: int = case.option("group_size", DEFAULT_GROUP)
    return min(size, d_out)


def rotation(case: Case, d_out: int, theta: Tensor, alpha: Tensor) -> Tensor:
    """R (d_out, d_out)."""
    g = group_size(case, d_out)
    rows, half = torch.arange(d_out), g // 2
    group, place = rows // g, rows % g
    upper = place < half
    partner = torch.where(upper, rows + half, rows - half)
    match case.option("road_variant", DEFAULT_VARIANT):
        case "road_1":  # one number per pair
            along = across = group * half + place % half
        case "road_2":  # one per row
            along = across = rows
        case "road_4":  # one per entry: a group's diagonal, then what is beside it
            along, across = group * 2 * g + place, group * 2 * g + g + place
    R = torch.zeros(d_out, d_out, dtype=theta.dtype)
    R = R.index_put((rows, rows), alpha[along] * theta[along].cos())
    return R.index_put((rows, partner), torch.where(upper, -1, 1) * alpha[across] * theta[across].sin())


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, turned."""
    R = rotation(case, weight.shape[0], p["lora_theta"], p["lora_alpha"])
    return R @ weight, None if bias is None else R @ bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Angles around zero, scales around one."""
    return {name: start[name] + strength * noise[name] for name in start}


def turned(case: Case, perturbed: Tensors) -> Tensors:
    """Angles beyond a right one and beyond a full turn."""
    theta = perturbed["lora_theta"]
    return perturbed | {"lora_theta": theta + 2.0 * torch.arange(-2, 3).repeat(len(theta))[: len(theta)]}


def mirrored(case: Case, perturbed: Tensors) -> Tensors:
    """Every second scale below zero, every fifth exactly zero."""
    alpha = perturbed["lora_alpha"].clone()
    alpha[::2] *= -1
    alpha[::5] = 0
    return perturbed | {"lora_alpha": alpha}


FORMULA = Formula(
    equation="W′ = R·W,  b′ = R·b;  R_ii = α cos θ,  R_ij = ∓α sin θ,  j = i ± group_size/2",
    source="arXiv:2409.00119 eq. 4, halves of a group paired",
    init=init,
    adapted=adapted,
    moved=moved,
    states={"turned": turned, "mirrored": mirrored},
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init."""
    layer.reset_parameters(ADAPTER, True)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's RoAd, through the variant's map."""
    return PeftLayer(
        config=installed("peft:RoadConfig"),
        words={"road_variant": "variant", "group_size": "group_size"},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=installed("peft.tuners.road.layer:Linear.forward"),
        equation="y = o·α cos θ + swap(o)·α sin θ,  o = base(x), swap: halves of a group exchanged, the first negated",
    )
