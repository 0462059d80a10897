"""LoRA: W′ = W + s·BA (arXiv:2106.09685 §4.1), s = alpha/r, or alpha/√r (arXiv:2312.03732)."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from refs.case import Case
from refs.formula import Drawn, Exactly, Formula, Init, Normal, Tensors, Uniform
from refs.numbers import normal, spread
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
    """A random, B zero; or both random with B A = 0."""
    d_out, d_in = weight.shape
    shape = (rank(case), d_in)
    match case.option("init", "kaiming"):
        case "orthogonal":
            return orthogonal(case, d_in, d_out) | bias_init(case, d_out)
        case "gaussian":
            A: Init = Normal(1 / rank(case), shape)
        case _:
            A = Uniform(d_in**-0.5, shape)
    return {"lora_A": A, "lora_B": Exactly(torch.zeros(d_out, rank(case), dtype=torch.float64))} | bias_init(case, d_out)


def bias_init(case: Case, d_out: int) -> dict[str, Init]:
    """The bias of B, if it is asked for."""
    return {"lora_b": Exactly(torch.zeros(d_out, dtype=torch.float64))} if case.option("lora_bias", False) else {}


def orthogonal(case: Case, d_in: int, d_out: int) -> dict[str, Init]:
    """Normal numbers mixed by the even rows of an orthonormal basis of ℝ^r for A, by the odd ones for B; a tenth of it."""
    r = rank(case)
    Q = torch.linalg.qr(normal(case.seed, "Q", shape=(r, r))).Q
    A = (normal(case.seed, "A", shape=(d_in, r // 2)) @ Q[0::2]).T / 10
    B = normal(case.seed, "B", shape=(d_out, r // 2)) @ Q[1::2] / 10
    return {"lora_A": Drawn(A, 0.1 / 2**0.5), "lora_B": Drawn(B, 0.1 / 2**0.5)}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of the formula; a bias of B is scaled like the product."""
    if "lora_b" in p:
        bias = scale(case) * p["lora_b"] + (0 if bias is None else bias)
    return weight + scale(case) * p["lora_B"] @ p["lora_A"], bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """A around its start, B from its own, and its bias: these carry the strength."""
    A = start["lora_A"] + 0.3 * spread(start["lora_A"]) * noise["lora_A"]
    rest = {name: start[name] + strength * noise[name] for name in start.keys() - {"lora_A"}}
    return {"lora_A": A} | {name: rest[name] for name in start if name in rest}


FORMULA = Formula(
    equation="W′ = W + s·B A,  s = α/r;  rsLoRA: s = α/√r;  with a bias of B: b′ = b + s·b_B",
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
    "lora_bias": "lora_bias",
    "init": ("init_lora_weights", {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}),
}


def reset(layer: Any, case: Case) -> None:
    """peft's own init of A and B."""
    kind = WORDS["init"][1][case.option("init", "kaiming")]
    if kind == "orthogonal":
        layer.orthogonal_init(ADAPTER)
    else:
        layer.reset_lora_parameters(ADAPTER, kind)


def unable(case: Case) -> str | None:
    """Refused by peft's config."""
    other = case.option("lora_bias", False) and case.option("init", "kaiming") != "kaiming"
    return "has lora_bias with the default start only" if other else None


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
        unable=unable,
    )
