"""DoRA: the adapted weight's direction from a low-rank update, its row norms from a trainable magnitude.

y = b + (m/n) ∘ (x Vᵀ),  V = W + s·BA,  n_i = ‖V_i‖₂ per output row, detached;  m (d_out,) starts at ‖W_i‖₂
With dropout in training: y = x Wᵀ + b + (m/n − 1) ∘ (drop(x) Wᵀ) + (m/n) ∘ s·(drop(x) Aᵀ) Bᵀ.
Identity at init: B = 0 and m = n, so m/n is exactly 1 and the added terms exactly zero.
Departures: dora-full-gradient, the norm as a part of the gradient of A and B (the authors' `dora_simple=False`), is a different choice;
§4.3, the authors' default and peft detach, so does this. Under a bias x Wᵀ is computed again: peft takes (x Wᵀ + b) − b, which costs
digits of the gradient of m where b is large.
Sources: Liu et al. 2024 (arXiv:2402.09353) eq. 5 and §4.3; peft `tuners/lora/dora.py` (`DoraLinearLayer.forward`); the authors' two
forks of peft, NVlabs/DoRA `tuners/dora.py` (`Linear.forward`).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.config import one_of, option, options
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import lora


@options
class DoRAConfig(lora.LowRankConfig):
    """DoRA (arXiv:2402.09353).

    r: rank of the update.
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training; the base result's correction
        sees the same dropped input, as in peft.
    rslora: scale by alpha/√r instead of alpha/r.
    init: of A, "kaiming" (uniform ±1/√d_in) or "gaussian" (standard deviation 1/r); B starts at zero.
    """

    init: str = option("kaiming", one_of("kaiming", "gaussian"))


def parameters(config: DoRAConfig, layer: Layer) -> Shapes:
    return {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r), "lora_m": (layer.d_out,)}


def init(config: DoRAConfig, layer: Layer) -> dict[str, Tensor]:
    # Through the adapter's dtype, as `forward` computes n: then m/n is exactly 1.
    weight = layer.weight.to(config.dtype or layer.weight.dtype)
    return {
        "lora_A": lora.uniform_or_normal(config.init, config.r, layer.d_in),
        "lora_B": torch.zeros(layer.d_out, config.r),
        "lora_m": torch.linalg.norm(weight, dim=1),
    }


def forward(config: DoRAConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    A, B, m = t["lora_A"], t["lora_B"], t["lora_m"]
    s, W = lora.scale(config), layer.weight.to(m.dtype)
    with torch.no_grad():
        n = torch.linalg.norm(W + s * (B @ A), dim=1)  # (d_out,)
    gain: Tensor = m / n  # (d_out,)
    dropped = F.dropout(x, config.dropout) if config.dropout and layer.module.training else x
    base = y if layer.bias is None and dropped is x else F.linear(dropped, W)  # y − b would lose digits under a large b
    return y + (gain - 1) * base + gain * F.linear(F.linear(dropped, A) * s, B)


def switched_on(config: DoRAConfig) -> dict[str, bool]:
    return {"use_dora": True}


PEFT = dataclasses.replace(
    lora.PEFT,
    options={"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora"},
    told_by={"init_lora_weights": (True, False, "gaussian"), "use_dora": (True,)},
    written=switched_on,
)

DORA = register(
    Variant(
        name="dora",
        config=DoRAConfig,
        parameters=parameters,
        init=init,
        forward=forward,
        reads_weight=True,
        peft={"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_m": "lora_magnitude_vector"},
        peft_form=PEFT,
    )
)
