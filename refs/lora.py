"""LoRA: W′ = W + s·BA (arXiv:2106.09685 §4.1), s = alpha/r, or alpha/√r (arXiv:2312.03732)."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from refs.case import Case
from refs.formula import Exactly, Formula, Init, Normal, Tensors, Uniform
from refs.peft_layer import ADAPTER, PeftLayer

# Of the closed form where a case leaves them out: peft's.
DEFAULT_RANK, DEFAULT_ALPHA = 8, 8.0


def rank(case: Case) -> int:
    """r of a case, or its default."""
    return case.rank or DEFAULT_RANK


def scale(case: Case) -> float:
    """s of the formula."""
    alpha = DEFAULT_ALPHA if case.alpha is None else case.alpha
    return alpha / (rank(case) ** 0.5 if case.option("rslora", False) else rank(case))


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """A random, B zero."""
    d_out, d_in = weight.shape
    shape = (rank(case), d_in)
    gaussian = case.option("init", "kaiming") == "gaussian"
    return {
        "lora_A": Normal(1 / rank(case), shape) if gaussian else Uniform(d_in**-0.5, shape),
        "lora_B": Exactly(torch.zeros(d_out, rank(case), dtype=torch.float64)),
    }


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of the formula."""
    return weight + scale(case) * p["lora_B"] @ p["lora_A"], bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """A around its start, B from zero: B carries the strength."""
    A = start["lora_A"] + 0.3 * start["lora_A"].std() * noise["lora_A"]
    return {"lora_A": A, "lora_B": strength * noise["lora_B"]}


FORMULA = Formula(
    equation="W′ = W + s·B A,  s = α/r;  rsLoRA: s = α/√r",
    source="arXiv:2106.09685 §4.1, arXiv:2312.03732",
    init=init,
    adapted=adapted,
    moved=moved,
    scale=scale,
)

WORDS: dict[str, Any] = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "rslora": "use_rslora",
    "init": ("init_lora_weights", {"kaiming": True, "gaussian": "gaussian"}),
}


def reset(layer: Any, case: Case) -> None:
    """peft's own init of A and B."""
    layer.reset_lora_parameters(ADAPTER, WORDS["init"][1][case.option("init", "kaiming")])


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's LoRA, through the variant's map."""
    return PeftLayer(
        config=peft.LoraConfig,
        words=WORDS,
        reset=reset,
        map=names,
        formula=FORMULA,
        code=Linear.forward,
        equation="y = base(x) + s·B(A(drop(x))),  s = lora_alpha/r;  use_rslora: lora_alpha/√r",
        kinds=("linear", "conv1d"),
    )
