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

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.config import Config, option, optional, options, positive, positive_int, probability
from lite.decomposition import leading, rank_fits
from lite.layers import Layer
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
    s = 1.0 if config.alpha is None else config.alpha / config.r
    x = F.dropout(x, config.dropout, layer.module.training)
    return y + F.linear(F.linear(F.linear(x, t["lora_A"]) * s, t["lora_R"]), t["lora_B"])


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
    )
)
