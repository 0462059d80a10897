"""IA3 on the input: W′ = W·diag(g), the bias stays (arXiv:2205.05638 §3.3, the feed-forward gate)."""

import functools
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.ia3.layer import Linear
from torch import Tensor

from refs.case import Case
from refs.formula import Exactly, Formula, Init
from refs.ia3 import closed, moved, negative, reset
from refs.peft_layer import PeftLayer


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """All gains one."""
    return {"lora_g": Exactly(torch.ones(weight.shape[1], dtype=torch.float64))}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Columns of the weight times their gain."""
    return weight * p["lora_g"], bias


FORMULA = Formula(
    equation="W′ = W·diag(g),  b′ = b",
    source="arXiv:2205.05638 §3.3, l_ff",
    init=init,
    adapted=adapted,
    moved=moved,
    states={"negative": negative, "closed": closed},
)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's IA3 on one of its feed-forward modules, through the variant's map."""
    return PeftLayer(
        config=functools.partial(peft.IA3Config, feedforward_modules=["layer"]),
        words={},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=Linear.forward,
        equation="y = base(x ∘ ia3_l)",
        kinds=("linear", "conv1d"),
    )
