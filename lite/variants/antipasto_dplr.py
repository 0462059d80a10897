"""AntiPaSTO with a diagonal-plus-low-rank core: a bounded gain on each of r singular values, and a thin product that mixes them.

y = x Wᵀ + b + (p·S·(gain − 1) + coeff·(p Aᵀ) Bᵀ) Uᵀ,  p = x V,  A (k, r) and B (r, k), k = lora_rank
gain as in antipasto: 1 + ELU(z), z = coeff·g, suppress_only: z = coeff·min(g, 0);  W = U S Vᵀ, r of its components, as antipasto chooses them
Identity at init: bit for bit: g = 0 and B = 0, and only the difference from W is added; so is coeff = 0 anywhere. As in LoRA, A, uniform in
±1/√r, has no gradient there.
Departures: those of antipasto from lora-lite: W stays, r is 16 by default. lora_rank above r is refused: the core has no higher rank.
Only the gain has S, a bound and suppress_only; the product has none of them, and coeff = −1 inverts it exactly.
Sources: wassname/lora-lite ef69c88 `variants/antipasto_dplr.py`, as recorded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.basis import Excited, buffers
from lite.config import option, options, positive_int
from lite.decomposition import rank_fits
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import antipasto, lora


@options
class AntiPaSTODPLRConfig(antipasto.GainConfig):
    """AntiPaSTO's gain and a low-rank core. calibration_data is optional: it chooses the components; its attention_mask selects tokens.

    r: number of components that are scaled and mixed, at most min(d_out, d_in).
    coeff: factor of g and of B A: 1 as trained, 0 off, −1 the other way; `lite.steer` replaces it.
    suppress_only: use negative g only, so that no gain is above one (at coeff > 0); B A is as it is.
    act_pool: how data are pooled to choose components: "rms" or "mean_abs" over tokens.
    lora_rank: rank of B A, at most r.
    """

    lora_rank: int = option(8, positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank > self.r:
            raise ValueError(
                f"AntiPaSTODPLRConfig: B A is (r, r); lora_rank must be at most r, got lora_rank = {self.lora_rank} and r = {self.r}"
            )


def parameters(config: AntiPaSTODPLRConfig, layer: Layer) -> Shapes:
    return {"lora_g": (config.r,), "lora_A": (config.lora_rank, config.r), "lora_B": (config.r, config.lora_rank)}


def init(config: AntiPaSTODPLRConfig, layer: Layer, seen: Excited | None = None) -> dict[str, Tensor]:
    A, B = lora.uniform_or_normal("kaiming", config.lora_rank, config.r), torch.zeros(config.r, config.lora_rank)
    return {"lora_A": A, "lora_B": B, **antipasto.init(config, layer, seen)}


def forward(config: AntiPaSTODPLRConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    p = F.linear(x, t["lora_Vh"])  # (…, r)
    scaled = p * (t["lora_S"] * antipasto.change(config, t["lora_g"]))
    mixed = F.linear(config.coeff * F.linear(p, t["lora_A"]), t["lora_B"])
    return y + F.linear(scaled + mixed, t["lora_U"])


ANTIPASTO_DPLR = register(
    Variant(
        name="antipasto_dplr",
        config=AntiPaSTODPLRConfig,
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
