"""PiSSA: W′ = W_res + s·BA, W_res = W − s·B₀A₀ with B₀A₀ the rank-r part of W, over s (arXiv:2404.02948 §3)."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from refs import lora
from refs.case import Case
from refs.formula import RESIDUAL, Decomposed, Formula, Init, Tensors
from refs.numbers import spread
from refs.peft_layer import ADAPTER, PeftLayer


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """The leading singular triples, S split in halves after it is divided by s."""
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    r = lora.rank(case)
    return balanced(case, U[:, :r], S[:r], Vh[:r])


def balanced(case: Case, U: Tensor, S: Tensor, Vh: Tensor) -> dict[str, Init]:
    """A and B whose product, times s, is U S Vh, each with one half of S."""
    root = torch.diag((S / lora.scale(case)).sqrt())
    return {"lora_A": Decomposed(root @ Vh), "lora_B": Decomposed(U @ root)} | lora.bias_init(case, len(U))


def residual(case: Case, weight: Tensor, start: Tensors) -> Tensor:
    """What is left of W."""
    return weight - lora.scale(case) * start["lora_B"] @ start["lora_A"]


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """LoRA on the residual."""
    return lora.adapted(case, p[RESIDUAL], bias, p)


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Every tensor around its start, relative to its own size; a bias from zero."""
    sizes = {name: spread(value) if value.any() else 1.0 for name, value in start.items()}
    return {name: value + strength * sizes[name] * noise[name] for name, value in start.items()}


GAUGE = {"lora_A": (0,), "lora_B": (1,)}

FORMULA = Formula(
    equation="W′ = W_res + s·B A,  W_res = W − s·B₀A₀,  A₀ = √(S_r/s) V_rᵀ,  B₀ = U_r √(S_r/s),  W = U S Vᵀ,  s = α/r",
    source="arXiv:2404.02948 §3",
    init=init,
    residual=residual,
    copied=True,
    gauge=GAUGE,
    adapted=adapted,
    moved=moved,
    scale=lora.scale,
    unseen=frozenset({"niter"}),
)


def method(case: Case) -> str:
    """peft's name for the start."""
    niter = case.option("niter", None)
    return "pissa" if niter is None else f"pissa_niter_{niter}"


def reset(layer: Any, case: Case) -> None:
    """peft's own init, on the undamaged weight."""
    layer.pissa_init(ADAPTER, method(case))


def unable(case: Case) -> str | None:
    """Refused by peft's config."""
    return "has lora_bias with LoRA's own start only" if case.option("lora_bias", False) else None


class ByReset(dict[Any, bool]):
    """An option that peft's own init is told, when it is run again: the layer is made with LoRA's, which decomposes nothing."""

    def __contains__(self, value: object) -> bool:
        return True

    def __missing__(self, value: Any) -> bool:
        return True


# The words of all methods that differ from LoRA only in their start.
WORDS = {name: word for name, word in lora.WORDS.items() if name != "init"}


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's PiSSA, through the variant's map."""
    return PeftLayer(
        config=peft.LoraConfig,
        words=WORDS | {"niter": ("init_lora_weights", ByReset())},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=LoraLayer.pissa_init,
        equation="base.weight = W − s·B₀A₀, then LoRA;  A₀ = √(S_r/s) V_rᵀ,  B₀ = U_r √(S_r/s) in float32, SVD of the weight in float32",
        kinds=("linear", "conv1d"),
        single=True,
        unable=unable,
    )
