"""AntiPaSTO's arrow: a free square block on the first b of r components, a bounded gain on each of the others.

y = x Wᵀ + b + [coeff·h_b Mᵀ, h_rest·(gain − 1)] Uᵀ,  h = (x V)·S,  h_b its first b = block components, M (b, b), g (r − b,)
gain as in antipasto: 1 + ELU(z), z = coeff·g, suppress_only: z = coeff·min(g, 0);  W = U S Vᵀ, r of its components, as antipasto chooses
them, in the order of S: the block is that of the largest
Identity at init: bit for bit: M = 0 and g = 0, and only the difference from W is added; so is coeff = 0 anywhere.
Departures: those of antipasto from lora-lite: W stays, r is 16 by default. block has to be below r, so that there is a gain. Only the
gains have a bound and suppress_only; the block has neither, and coeff = −1 inverts what it adds exactly. Despite the name no row or column
joins block and gains: the core is block-diagonal.
Sources: wassname/lora-lite a5999bd `variants/antipasto_arrow.py`, as recorded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.basis import Excited, basis, buffers
from lite.config import option, options, positive_int
from lite.decomposition import rank_fits
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import antipasto


@options
class AntiPaSTOArrowConfig(antipasto.GainConfig):
    """AntiPaSTO's gain beside a free block. calibration_data is optional: it chooses the components; its attention_mask selects tokens.

    r: number of components that are trained, at most min(d_out, d_in).
    coeff: factor of g and of M: 1 as trained, 0 off, −1 the other way; `lite.steer` replaces it.
    suppress_only: use negative g only, so that no gain is above one (at coeff > 0); M is as it is.
    act_pool: how data are pooled to choose components: "rms" or "mean_abs" over tokens.
    block: how many of the components, the largest, are mixed by M instead; below r.
    """

    block: int = option(8, positive_int)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block >= self.r:
            raise ValueError(
                f"AntiPaSTOArrowConfig: the components after the block have gains; block must be below r, got block = {self.block} and r = {self.r}"
            )


def parameters(config: AntiPaSTOArrowConfig, layer: Layer) -> Shapes:
    return {"lora_M": (config.block, config.block), "lora_g": (config.r - config.block,)}


def init(config: AntiPaSTOArrowConfig, layer: Layer, seen: Excited | None = None) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in parameters(config, layer).items()} | basis(config, layer, seen)


def forward(config: AntiPaSTOArrowConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    h = F.linear(x, t["lora_Vh"]) * t["lora_S"]  # (…, r)
    mixed = F.linear(config.coeff * h[..., : config.block], t["lora_M"])
    scaled = h[..., config.block :] * antipasto.change(config, t["lora_g"])
    return y + F.linear(torch.cat([mixed, scaled], dim=-1), t["lora_U"])


ANTIPASTO_ARROW = register(
    Variant(
        name="antipasto_arrow",
        config=AntiPaSTOArrowConfig,
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
