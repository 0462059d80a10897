"""AntiPaSTO's gain: a bounded factor on each of r singular values, which one coefficient steers.

y = x Wᵀ + b + (x V · S·(gain − 1)) Uᵀ,  gain = 1 + ELU(z): eᶻ below 0, 1 + z above;  z = coeff·g, suppress_only: z = coeff·min(g, 0)
W = U S Vᵀ, r of its components: the largest, or with data those with the largest S_i·rms(x·v_i) (act_pool: or S_i·mean|x·v_i|)
Identity at init: bit for bit: g = 0, and only the difference from W is added; so is coeff = 0 at any g.
Departures: lora-lite replaces W by W − U S Vᵀ and adds the adapted part back, in bfloat16 by default; here W stays, so that the start,
coeff = 0 and `detach` are exact. It computes the gain itself, which in bfloat16 is 1 for all g between −2e-3 and 2e-3 (its dead zone); ELU(z) is
small where z is. It decomposes in float32 whatever the dtype, takes padding for tokens, and its default r is 256; 16 here, as in the
author's layer. Its cfg.alpha does nothing and is not offered. coeff = −1 inverts a gain only to first order: e⁻ᵍ beside 1 + g.
With suppress_only and coeff < 0 it amplifies: it is g that is clamped, not z.
Sources: wassname/AntiPaSTO 85c09b7 (the family); wassname/lora-lite ef69c88 `variants/antipasto.py`, as recorded.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.basis import Excited, SelectedConfig, basis, buffers
from lite.config import flag, option, options
from lite.decomposition import rank_fits
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register


@options
class AntiPaSTOConfig(SelectedConfig):
    """AntiPaSTO's gain. calibration_data is optional: it chooses the components; its attention_mask selects tokens.

    r: number of components whose gain is trained, at most min(d_out, d_in).
    coeff: factor of g: 1 as trained, 0 off, −1 the other way; `lite.steer` replaces it.
    suppress_only: use negative g only, so that a component can lose and never gain (at coeff > 0).
    act_pool: how data are pooled to choose components: "rms" or "mean_abs" over tokens.
    """

    suppress_only: bool = option(False, flag)


def parameters(config: AntiPaSTOConfig, layer: Layer) -> Shapes:
    return {"lora_g": (config.r,)}


def init(config: AntiPaSTOConfig, layer: Layer, seen: Excited | None = None) -> dict[str, Tensor]:
    return {"lora_g": torch.zeros(config.r), **basis(config, layer, seen)}


def change(config: Any, g: Tensor) -> Tensor:
    """gain − 1, precise where it is small; of a config with coeff and suppress_only."""
    return F.elu(config.coeff * (g.clamp(max=0) if config.suppress_only else g))


def forward(config: AntiPaSTOConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    return y + F.linear(F.linear(x, t["lora_Vh"]) * (t["lora_S"] * change(config, t["lora_g"])), t["lora_U"])


ANTIPASTO = register(
    Variant(
        name="antipasto",
        config=AntiPaSTOConfig,
        parameters=parameters,
        buffers=buffers,
        init=init,
        statistics=Excited,
        needs_data=False,
        forward=forward,
        fits=rank_fits,
        reads_weight=True,
        peft={},
    )
)
