"""AntiPaSTO's gain between components that are oriented by the sizes of the layer's inputs, one by one.

y = x Wᵀ + b + (x Pᵀ·S·(gain − 1)) Uᵀ,  gain as in antipasto: 1 + ELU(z), z = coeff·g, suppress_only: z = coeff·min(g, 0)
c_i = √(E[x_i²] + cov_eps) over all unmasked tokens of all calls;  W diag(c) = U S Qᵀ,  P = Q_rᵀ diag(c)⁻¹
Identity at init: bit for bit: g = 0, and only the difference from W is added; so is coeff = 0 at any g.
Departures: antipasto_corda with the diagonal of its C: d_in numbers instead of d_in². ASVD scales by (mean|x_i|)^α, α = ½ by default; it is
the root mean square here, as in lora-lite, to the first power. U, S and P are computed in float64. Fewer tokens than r are refused.
lora-lite decomposes in float32, replaces W by W − U S P, adds the adapted part back, in bfloat16 by default, and its default r is
256; W stays here, as in antipasto.
Sources: wassname/lora-lite 7e024b4 `variants/antipasto_asvd.py`, as recorded; Yuan et al. 2023 (arXiv:2312.05821) §3 for what it departs from.
"""

import torch
from torch import Tensor

from lite.config import flag, option, options
from lite.decomposition import decomposable, rank_fits
from lite.layers import Layer
from lite.moments import OrientedConfig, Squares
from lite.variant import Variant, register
from lite.variants import antipasto, antipasto_corda


@options
class AntiPaSTOASVDConfig(OrientedConfig):
    """AntiPaSTO's gain, oriented by input sizes. Needs calibration_data; its attention_mask selects tokens.

    r: number of components whose gain is trained, at most min(d_out, d_in) and the number of tokens.
    coeff: factor of g: 1 as trained, 0 off, −1 the other way; `lite.steer` replaces it.
    suppress_only: use negative g only, so that a component can lose and never gain (at coeff > 0).
    cov_eps: what is added to every E[x_i²], so that inputs that the data lack count a little.
    """

    suppress_only: bool = option(False, flag)


def init(config: AntiPaSTOASVDConfig, layer: Layer, seen: Squares) -> dict[str, Tensor]:
    c = (seen.mean(config.r) + config.cov_eps).sqrt()
    U, S, Qh = torch.linalg.svd(decomposable(layer.weight).to(c) * c, full_matrices=False)
    r = config.r
    return {"lora_g": c.new_zeros(r), "lora_U": U[:, :r], "lora_S": S[:r], "lora_P": Qh[:r] / c}


ANTIPASTO_ASVD = register(
    Variant(
        name="antipasto_asvd",
        config=AntiPaSTOASVDConfig,
        parameters=antipasto.parameters,
        buffers=antipasto_corda.buffers,
        init=init,
        statistics=Squares,
        forward=antipasto_corda.forward,
        fits=rank_fits,
        reads_weight=True,
        peft={},
    )
)
