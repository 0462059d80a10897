"""AntiPaSTO's gain between components that are oriented by the covariance of the layer's input.

y = x Wᵀ + b + (x Pᵀ·S·(gain − 1)) Uᵀ,  gain as in antipasto: 1 + ELU(z), z = coeff·g, suppress_only: z = coeff·min(g, 0)
C = E[x xᵀ] over all unmasked tokens of all calls, uncentred, its eigenvalues clamped at 0, + cov_eps;  W C^½ = U S Qᵀ,  P = Q_rᵀ C^−½
Identity at init: bit for bit: g = 0, and only the difference from W is added; so is coeff = 0 at any g.
Departures: not peft's CorDA, nor its author's: these decompose W C, take C⁻¹ out again, and weigh the calls of a layer alike; here it is
C^½, whose r components are the best of their rank for such inputs: E‖x (W − U S P)ᵀ‖² is least, but for cov_eps. In the recorded
example vec_0 the two parts differ by 0.065 where they have 0.53, and what is left of W has a weighted norm of 0.922, of 0.961 with C.
U, S and P are computed in float64, P as S⁻¹U_rᵀW: the same, without an inverse. Fewer tokens than r are refused. lora-lite decomposes in
float32, replaces W by W − U S P, adds the adapted part back, in bfloat16 by default, and its default r is 256; W stays here.
Sources: wassname/lora-lite 5f9d90d `variants/antipasto_corda.py`, as recorded; Yang et al. 2024 (arXiv:2406.05223) for what it departs from.
"""

import torch.nn.functional as F
from torch import Tensor

from lite.config import flag, option, options
from lite.decomposition import rank_fits
from lite.layers import Layer
from lite.moments import Moments, OrientedConfig, oriented
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import antipasto


@options
class AntiPaSTOCorDAConfig(OrientedConfig):
    """AntiPaSTO's gain, oriented by the covariance. Needs calibration_data; its attention_mask selects tokens.

    r: number of components whose gain is trained, at most min(d_out, d_in) and the number of tokens.
    coeff: factor of g: 1 as trained, 0 off, −1 the other way; `lite.steer` replaces it.
    suppress_only: use negative g only, so that a component can lose and never gain (at coeff > 0).
    cov_eps: what is added to every eigenvalue of C, so that directions that the data lack count a little.
    """

    suppress_only: bool = option(False, flag)


def buffers(config: AntiPaSTOCorDAConfig, layer: Layer) -> Shapes:
    return {"lora_U": (layer.d_out, config.r), "lora_S": (config.r,), "lora_P": (config.r, layer.d_in)}


def init(config: AntiPaSTOCorDAConfig, layer: Layer, seen: Moments) -> dict[str, Tensor]:
    U, S, P = oriented(config, layer, seen)
    return {"lora_g": S.new_zeros(config.r), "lora_U": U, "lora_S": S, "lora_P": P}


def forward(config: AntiPaSTOCorDAConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    return y + F.linear(F.linear(x, t["lora_P"]) * (t["lora_S"] * antipasto.change(config, t["lora_g"])), t["lora_U"])


ANTIPASTO_CORDA = register(
    Variant(
        name="antipasto_corda",
        config=AntiPaSTOCorDAConfig,
        parameters=antipasto.parameters,
        buffers=buffers,
        init=init,
        statistics=Moments,
        forward=forward,
        fits=rank_fits,
        reads_weight=True,
        peft={},
    )
)
