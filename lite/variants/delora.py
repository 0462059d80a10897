"""DeLoRA: a low-rank update whose strength λ is decoupled from the directions of its factors.

y = x Wᵀ + b + (λ/r)·Σ_i b_i (a_i ∘ n)·drop(x) / (‖a_i‖·‖b_i‖);  a_i rows of A, b_i columns of B, n_j = ‖W[:, j]‖₂ per input
channel, frozen; both norms are clamped from below at 1e-4.
Identity at init: B = 0, so the added term is exactly zero; with init "kaiming" it is not, by about λ.
Departures: the author subtracts a frozen copy of the initial update, times the trained λ, instead of starting at B = 0
(delora-frozen-copy), and divides by the bare norms (delora-unclamped); peft does as here. On the CPU the author's copy shares A's and B's
memory, so that nothing is ever added (delora-aliased).
The norms n are folded into A, everything else multiplies the thin (…, r) product; the same function, cheaper than n on x.
Sources: Bini et al. 2025 (arXiv:2503.18225), ΔW = (λ‖W‖/r)·BΞA; peft `tuners/delora/layer.py` (`DeloraLinear.forward`); the
author's `peft/src/peft/tuners/delora.py` (`Linear`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lite.config import Config, one_of, option, options, positive, positive_int, probability
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register

MIN_NORM = 1e-4  # peft's clamp; the gradient through a clamped norm is zero


@options
class DeLoRAConfig(Config):
    """DeLoRA (arXiv:2503.18225).

    r: rank of the update.
    lambda0: initial strength λ, the bound on the update's norm relative to the weight's; at 0 nothing could be trained.
    dropout: probability of dropping an element of the adapter's input while training.
    init: of B, "zero", or "kaiming" (uniform ±1/√r): then λ and A have gradients from the first step on, and the start is no identity.
    """

    r: int = option(8, positive_int)
    lambda0: float = option(15.0, positive)
    dropout: float = option(0.0, probability)
    init: str = option("zero", one_of("zero", "kaiming"))


def parameters(config: DeLoRAConfig, layer: Layer) -> Shapes:
    return {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r), "lora_lambda": ()}


def buffers(config: DeLoRAConfig, layer: Layer) -> Shapes:
    return {"lora_wnorm": (layer.d_in,)}


def init(config: DeLoRAConfig, layer: Layer) -> dict[str, Tensor]:
    A = torch.empty(config.r, layer.d_in, dtype=torch.float32, device="cpu")
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    B = torch.zeros(layer.d_out, config.r, dtype=torch.float32, device="cpu")
    if config.init == "kaiming":
        nn.init.kaiming_uniform_(B, a=math.sqrt(5))
    return {
        "lora_A": A,
        "lora_B": B,
        "lora_lambda": torch.tensor(float(config.lambda0), dtype=torch.float32),
        "lora_wnorm": torch.linalg.norm(layer.weight, dim=0),
    }


def forward(config: DeLoRAConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    A, B = t["lora_A"], t["lora_B"]
    x = F.dropout(x, config.dropout, layer.module.training)
    strength = t["lora_lambda"] / config.r
    is_narrow = A.dtype == torch.float16  # too narrow for the strength of a clamped norm: each norm divides its own factor
    if is_narrow:
        A, B = A / clamped_norm(A, dim=1)[:, None], B / clamped_norm(B, dim=0)
    thin = F.linear(x, A * t["lora_wnorm"])  # before the norms, so that their gradients come first, while little else is held
    if not is_narrow:
        strength = strength / (clamped_norm(A, dim=1) * clamped_norm(B, dim=0))  # (r,)
    return y + F.linear(thin * strength, B)


def clamped_norm(factor: Tensor, dim: int) -> Tensor:
    """‖a_i‖ or ‖b_i‖ (r,)."""
    norm: Tensor = factor.norm(dim=dim)
    return norm.clamp(min=MIN_NORM)


DELORA = register(
    Variant(
        name="delora",
        config=DeLoRAConfig,
        parameters=parameters,
        buffers=buffers,
        init=init,
        forward=forward,
        reads_weight=True,
        peft={
            "lora_A": "delora_A",
            "lora_B": "delora_B",
            "lora_lambda": {"name": "delora_lambda", "shape": (1,)},
            "lora_wnorm": "delora_w_norm",
        },
        peft_form=PeftForm(
            type="DELORA",
            options={"r": "r", "lambda0": "delora_lambda", "dropout": "module_dropout"},
            start={"init": ("init_weights", {"zero": True, "kaiming": False})},
            per_layer={"r": "rank_pattern", "delora_lambda": "lambda_pattern"},
        ),
    )
)
