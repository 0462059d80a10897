"""LoRA: a trainable product of two thin matrices beside the frozen weight.

y = x Wᵀ + b + s·((drop(x) Aᵀ) Bᵀ + b_B),  s = alpha/r, with rslora alpha/√r; b_B (d_out,) with lora_bias only
Identity at init: B = 0 and b_B = 0, so the added term is exactly zero; "orthogonal" starts with B A = 0 up to rounding.
Departures: s multiplies the thin (…, r) product instead of the (…, d_out) one; the same function, cheaper. peft takes lora_bias with
"kaiming" only; here every start has it.
Sources: Hu et al. 2021 (arXiv:2106.09685) §4.1; Kalajdzievski 2023 (arXiv:2312.03732) for √r;
peft `tuners/lora/layer.py` (`Linear.forward`, `reset_lora_parameters`, `orthogonal_init`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lite.config import Config, flag, one_of, option, options, positive, positive_int, probability
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register


@options
class LowRankConfig(Config):
    """What every method with a scaled product of two thin matrices has."""

    r: int = option(8, positive_int)
    alpha: float = option(8, positive)
    dropout: float = option(0.0, probability)
    rslora: bool = option(False, flag)


@options
class BiasedConfig(LowRankConfig):
    """What the methods have that differ from LoRA only in their start."""

    lora_bias: bool = option(False, flag)


@options
class LoRAConfig(BiasedConfig):
    """LoRA (arXiv:2106.09685).

    r: rank of the update.
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    init: "kaiming" (A uniform ±1/√d_in, B zero), "gaussian" (A normal with standard deviation 1/r, B zero) or "orthogonal" (A and B
        random with B A = 0; r has to be even).
    """

    init: str = option("kaiming", one_of("kaiming", "gaussian", "orthogonal"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "orthogonal" and self.r % 2:
            raise ValueError(
                f"LoRAConfig: init 'orthogonal' gives A and B one half of r directions each; r must be even, got {self.r}"
            )


def scale(config: LowRankConfig) -> float:
    """s of the formula."""
    return config.alpha / (math.sqrt(config.r) if config.rslora else config.r)


def parameters(config: BiasedConfig, layer: Layer) -> Shapes:
    shapes: Shapes = {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r)}
    return shapes | {"lora_b": (layer.d_out,)} if config.lora_bias else shapes


def init(config: LoRAConfig, layer: Layer) -> dict[str, Tensor]:
    if config.init == "orthogonal":
        A, B = orthogonal(config.r, layer.d_in, layer.d_out, config.dtype or layer.weight.dtype)
    else:
        A, B = uniform_or_normal(config.init, config.r, layer.d_in), torch.zeros(layer.d_out, config.r)
    return {"lora_A": A, "lora_B": B, "lora_b": torch.zeros(layer.d_out)}


def uniform_or_normal(kind: str, r: int, d_in: int) -> Tensor:
    """A (r, d_in), drawn as peft draws it."""
    A = torch.empty(r, d_in, dtype=torch.float32, device="cpu")
    if kind == "gaussian":
        return nn.init.normal_(A, std=1 / r)
    return nn.init.kaiming_uniform_(A, a=math.sqrt(5))


def orthogonal(r: int, d_in: int, d_out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A in the span of one half of an orthonormal basis of ℝ^r, B in that of the other, so that B A = 0; float64 for that dtype."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32, device="cpu").to(torch.promote_types(dtype, torch.float32))

    Q = torch.linalg.qr(draw(r, r)).Q
    A = (draw(d_in, r // 2) @ Q[0::2]).T / 10  # (r, d_in)
    B = draw(r // 2, d_out).T @ Q[1::2] / 10  # (d_out, r)
    return A, B


def forward(config: BiasedConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    x = F.dropout(x, config.dropout, layer.module.training)
    s = scale(config)
    y = y + F.linear(F.linear(x, t["lora_A"]) * s, t["lora_B"])
    return y + s * t["lora_b"] if config.lora_bias else y


PEFT = PeftForm(
    type="LORA",
    options={"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora", "lora_bias": "lora_bias"},
    start={"init": ("init_lora_weights", {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"})},
    told_by={"init_lora_weights": (True, False, "gaussian", "orthogonal"), "use_dora": (False,)},
    inert=frozenset({"megatron_core", "qalora_group_size"}),
    per_layer={"r": "rank_pattern", "lora_alpha": "alpha_pattern"},
    conv1d=True,
)

LORA = register(
    Variant(
        name="lora",
        config=LoRAConfig,
        parameters=parameters,
        init=init,
        forward=forward,
        reads_weight=False,
        peft={"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_b": "lora_B.bias"},
        peft_form=PEFT,
    )
)
