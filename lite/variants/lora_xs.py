"""LoRA-XS: a small trainable matrix between two frozen factors of the weight's leading singular part.

y = x Wᵀ + b + s·((drop(x) Aᵀ) Rᵀ) Bᵀ,  A = S_r·V_rᵀ (r, d_in),  B = U_r (d_out, r),  W = U S Vᵀ;  s = alpha/r, 1 by default
Identity at init: nearly: R is normal with standard deviation 1e-5, so that the update is that small, not zero.
Departures: the exact decomposition by default, where the author draws a randomised one with ten iterations; niter gives that. The
singular values stand on the input side as in the author's code; no scale of r and alpha there unless alpha is set, so neither here.
lora-lite decomposes in float32 and scales by alpha/r with a default of 2: with alpha told and its factors given it is the same function.
Sources: Bałazy et al. 2024 (arXiv:2405.17604) §3; the author's `utils/initialization_utils.py` and `utils/latent_utils.py`; peft has no
method of this name, its `tuners/psoft` (without orthogonality) and `tuners/tinylora` (with one-hot projections) are the same function
class; wassname/lora-lite 4e03f9c `variants/lora_xs.py`, as recorded.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.config import Config, option, optional, options, positive, positive_int, probability
from lite.decomposition import leading, rank_fits
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register

START = 1e-5  # standard deviation of R


@options
class LoRAXSConfig(Config):
    """LoRA-XS (arXiv:2405.17604).

    r: rank; r² numbers are trained per layer. At most min(d_out, d_in).
    alpha: numerator of the scale alpha/r; None = r, so that the scale is 1.
    dropout: probability of dropping an element of the adapter's input while training.
    niter: None for the exact decomposition, else the power iterations of a randomised one, drawn from the global generator.
    """

    r: int = option(8, positive_int)
    alpha: float | None = option(None, optional(positive))
    dropout: float = option(0.0, probability)
    niter: int | None = option(None, optional(positive_int))


def scale(config: LoRAXSConfig) -> float:
    """s of the formula."""
    return 1.0 if config.alpha is None else config.alpha / config.r


def parameters(config: LoRAXSConfig, layer: Layer) -> Shapes:
    return {"lora_R": (config.r, config.r)}


def buffers(config: LoRAXSConfig, layer: Layer) -> Shapes:
    return {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r)}


def init(config: LoRAXSConfig, layer: Layer) -> dict[str, Tensor]:
    # In place: a small matrix is then drawn in double, as the author's is, and the bits are the same.
    R = torch.empty(config.r, config.r, dtype=torch.float32, device="cpu").normal_(std=START)
    U, S, Vh = leading(layer.weight, config.r, config.niter)
    return {"lora_R": R, "lora_A": S[:, None] * Vh, "lora_B": U}


def forward(config: LoRAXSConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    x = F.dropout(x, config.dropout, layer.module.training)
    return y + F.linear(F.linear(F.linear(x, t["lora_A"]) * scale(config), t["lora_R"]), t["lora_B"])


def free(config: LoRAXSConfig) -> dict[str, Any]:
    """As many numbers as R has, of each layer's own."""
    return {"u": config.r**2, "weight_tying": 0.0, "save_projection": True}


def to_tinylora(config: LoRAXSConfig, t: Tensors) -> dict[str, Tensor]:
    """R = Σ_i v_i P_i with P_i that are s at one place and zero elsewhere, so that v is R."""
    R, r = t["lora_R"], config.r
    P = scale(config) * R.new_ones(r * r).diag().reshape(r * r, r, r)
    return {"tinylora_v": R.flatten(), "tinylora_A": t["lora_A"], "tinylora_B": t["lora_B"], "tinylora_P": P}


def from_tinylora(t: Tensors) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The way back; ValueError for other projections, which make it another method."""
    if missing := {"tinylora_v", "tinylora_A", "tinylora_B", "tinylora_P"} - t.keys():
        raise ValueError(f"missing {', '.join(sorted(missing))}")
    r, v, P = len(t["tinylora_A"]), t["tinylora_v"], t["tinylora_P"]
    if v.shape != (r * r,) or P.shape != (r * r, r, r):
        raise ValueError(f"tinylora_v is {tuple(v.shape)}, tinylora_P {tuple(P.shape)}; should be ({r * r},), {(r * r, r, r)}")
    s = P[0, 0, 0]
    if not P.equal(s * P.new_ones(r * r).diag().reshape(P.shape)):
        raise ValueError("tinylora_P holds random projections: that is TinyLoRA, another method")
    return {"lora_R": v.reshape(r, r), "lora_A": t["tinylora_A"], "lora_B": t["tinylora_B"]}, {} if s == 1 else {
        "alpha": float(s) * r
    }


LORA_XS = register(
    Variant(
        name="lora_xs",
        config=LoRAXSConfig,
        parameters=parameters,
        buffers=buffers,
        init=init,
        forward=forward,
        fits=rank_fits,
        reads_weight=True,
        peft={},
        peft_form=PeftForm(
            type="TINYLORA",
            options={"r": "r", "dropout": "tinylora_dropout"},
            told_by={"weight_tying": (0.0,)},
            written=free,
            inert=frozenset({"u", "projection_seed", "save_projection", "init_v_bound"}),
            conv1d=True,
            to_peft=to_tinylora,
            from_peft=from_tinylora,
            numbered="tinylora_v",
        ),
    )
)
