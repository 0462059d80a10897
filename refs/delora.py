"""DeLoRA: W′ = W + (λ/r)·Σ_i b_i (a_i ∘ n)ᵀ/(‖a_i‖‖b_i‖), n_j = ‖W[:, j]‖₂ (arXiv:2503.18225, ΔW = (λ‖W‖/r)·BΞA).

The paper divides by the bare norms; with B = 0 at init that is 0/0. peft clamps both at 1e-4, and so does this form.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refs.case import Case
from refs.formula import Exactly, Formula, Init, Tensors, Uniform
from refs.installed import installed
from refs.numbers import spread
from refs.peft_layer import ADAPTER, PeftLayer

DEFAULT_RANK, DEFAULT_LAMBDA = 8, 15.0
CLAMP = 1e-4


def rank(case: Case) -> int:
    """r of a case, or its default."""
    return case.rank or DEFAULT_RANK


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """A random, B zero, λ at its option."""
    d_out, d_in = weight.shape
    lambda0 = case.option("lambda0", DEFAULT_LAMBDA)
    return {
        "lora_A": Uniform(d_in**-0.5, (rank(case), d_in)),
        "lora_B": Uniform(rank(case) ** -0.5, (d_out, rank(case)))
        if starts_moved(case)
        else Exactly(torch.zeros(d_out, rank(case), dtype=torch.float64)),
        "lora_lambda": Exactly(torch.tensor(lambda0, dtype=torch.float64)),
    }


def starts_moved(case: Case) -> bool:
    """Whether B starts random, so that the layer is not the identity."""
    return bool(case.option("init", "zero") == "kaiming")


def frozen(case: Case, weight: Tensor) -> Tensors:
    """The norm of every input channel of the base weight."""
    return {"lora_wnorm": weight.square().sum(dim=0).sqrt()}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of the formula."""
    A, B, n = p["lora_A"], p["lora_B"], frozen(case, weight)["lora_wnorm"]
    directions_a = A / A.norm(dim=1, keepdim=True).clamp(min=CLAMP)  # (r, d_in)
    directions_b = B / B.norm(dim=0).clamp(min=CLAMP)  # (d_out, r)
    return weight + p["lora_lambda"] / rank(case) * (directions_b @ directions_a) * n, bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """A around its start, B of A's size; the update does not depend on their sizes, so λ carries the strength."""
    size = spread(start["lora_A"])
    return {
        "lora_A": start["lora_A"] + 0.3 * size * noise["lora_A"],
        "lora_B": size * noise["lora_B"],
        "lora_lambda": torch.tensor(strength, dtype=torch.float64),
    }


def clamped(case: Case, perturbed: Tensors) -> Tensors:
    """One column of B and one row of A below the clamp, the next ones just above it."""
    A, B = perturbed["lora_A"].clone(), perturbed["lora_B"].clone()
    for factor, sizes in ((A, (0.7, 1.3)), (B.T, (1.3, 0.7))):
        for row, size in zip(factor, sizes, strict=False):
            row *= size * CLAMP / row.norm()
    return perturbed | {"lora_A": A, "lora_B": B}


def negative(case: Case, perturbed: Tensors) -> Tensors:
    """λ below zero: nothing keeps it positive in training."""
    return perturbed | {"lora_lambda": -perturbed["lora_lambda"]}


FORMULA = Formula(
    equation="W′ = W + (λ/r)·B Ξ A ∘ n,  Ξ_i = 1/(‖a_i‖·‖b_i‖),  n_j = ‖W[:, j]‖₂",
    source="arXiv:2503.18225, ΔW = (λ‖W‖/r)·BΞA, norms clamped at 1e-4",
    init=init,
    frozen=frozen,
    adapted=adapted,
    moved=moved,
    states={"clamped": clamped, "negative": negative},
    identity=lambda case: not starts_moved(case),
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init."""
    layer.reset_delora_parameters(ADAPTER, not starts_moved(case), case.option("lambda0", DEFAULT_LAMBDA))


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's DeLoRA, through the variant's map."""
    return PeftLayer(
        config=installed("peft:DeloraConfig"),
        words={
            "rank": "r",
            "lambda0": "delora_lambda",
            "dropout": "module_dropout",
            "init": ("init_weights", {"zero": True, "kaiming": False}),
        },
        reset=reset,
        map=names,
        formula=FORMULA,
        code=installed("peft.tuners.delora.layer:DeloraLinear.forward"),
        equation="y = base(x) + B(diag(λ/r / (max(‖a_i‖, 1e-4)·max(‖b_i‖, 1e-4)))·A(drop(x) ∘ w_norm))",
    )
