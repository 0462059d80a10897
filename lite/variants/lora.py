"""LoRA: a trainable product of two thin matrices beside the frozen weight.

y = x Wᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  s = alpha/r, with rslora alpha/√r
Identity at init: B = 0, so the added term is exactly zero.
Departures: s multiplies the thin (…, r) product instead of the (…, d_out) one; the same function, cheaper.
Sources: Hu et al. 2021 (arXiv:2106.09685) §4.1; Kalajdzievski 2023 (arXiv:2312.03732) for √r;
peft `tuners/lora/layer.py` (`Linear.forward`, `reset_lora_parameters`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lite.config import Config, flag, one_of, option, options, positive, positive_int, probability
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register


@options
class LoRAConfig(Config):
    """LoRA (arXiv:2106.09685).

    r: rank of the update.
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    init: of A, "kaiming" (uniform ±1/√d_in) or "gaussian" (standard deviation 1/r); B starts at zero.
    """

    r: int = option(8, positive_int)
    alpha: float = option(8, positive)
    dropout: float = option(0.0, probability)
    rslora: bool = option(False, flag)
    init: str = option("kaiming", one_of("kaiming", "gaussian"))


def scale(config: LoRAConfig) -> float:
    """s of the formula."""
    return config.alpha / (math.sqrt(config.r) if config.rslora else config.r)


def parameters(config: LoRAConfig, layer: Layer) -> Shapes:
    return {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r)}


def init(config: LoRAConfig, layer: Layer) -> dict[str, Tensor]:
    A = torch.empty(config.r, layer.d_in, dtype=torch.float32, device="cpu")
    if config.init == "gaussian":
        nn.init.normal_(A, std=1 / config.r)
    else:
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return {"lora_A": A, "lora_B": torch.zeros(layer.d_out, config.r)}


def forward(config: LoRAConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    x = F.dropout(x, config.dropout, layer.module.training)
    return y + F.linear(F.linear(x, t["lora_A"]) * scale(config), t["lora_B"])


LORA = register(
    Variant(
        name="lora",
        config=LoRAConfig,
        parameters=parameters,
        init=init,
        forward=forward,
        reads_weight=False,
        peft={"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"},
    )
)
