"""AntiPaSTO's ablation: k directions between a weight's components, each taken out of the output as far as its strength says.

y = x Wᵀ + b − coeff·((h C)·a Cᵀ) Uᵀ,  h = x V·S (tokens, r),  a = alpha clamped to [0, 1];  W = U S Vᵀ, its r largest components
C (r, k): c/(‖c‖ + 1e-6) for k = 1, otherwise Q of c = Q R, so that a column of c counts as far as those before it leave it over
cov_orient: W C^½ = U S Qᵀ and P = Q_rᵀ C^−½ in the place of Vᵀ, as in antipasto_corda
Identity at init: nearly: every alpha is 0.05, c normal with standard deviation 1/√r. Bit for bit with init_alpha = 0, and at coeff = 0.
Departures: for coeff in [0, 1] nothing that is ablated grows: I − coeff·C diag(a) Cᵀ has no singular value above 1. Beyond, it is as in
lora-lite: coeff = −1 doubles, and coeff = 3 inverts and doubles, what a strength of 1 takes out. lora-lite takes padding for tokens
where it orients, and sends the data through the adapters that it has attached already, which are no identity; here the model is the
plain one, and padding is masked. It decomposes in float32, replaces W by W − U S Vᵀ, and its default r is 256. Q is computed in
float32 below float64. The factors on both sides of a are multiplied out first, so that a token costs k·(d_in + d_out).
Sources: wassname/lora-lite 09dcfe0 `variants/antipasto_ablate.py`, as recorded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.basis import buffers
from lite.config import flag, fraction, option, options, positive_int
from lite.decomposition import leading, rank_fits, wide
from lite.layers import Layer
from lite.moments import Moments, OrientedConfig, oriented
from lite.variant import Shapes, Tensors, Variant, register

LEAST = 1e-6  # added to the length of a single direction


@options
class AntiPaSTOAblateConfig(OrientedConfig):
    """AntiPaSTO's ablation. calibration_data with cov_orient, and only then; its attention_mask selects tokens.

    r: number of components that the directions lie between, at most min(d_out, d_in), and with cov_orient the number of tokens.
    coeff: factor of the strengths: 1 as trained, 0 off; `lite.steer` replaces it.
    k: number of directions, at most r.
    init_alpha: what the strengths start at, in [0, 1].
    cov_orient: orient the components by the covariance of the input, as antipasto_corda does.
    cov_eps: with cov_orient: what is added to every eigenvalue of the covariance.
    """

    k: int = option(1, positive_int)
    init_alpha: float = option(0.05, fraction)
    cov_orient: bool = option(False, flag)


def oriented_by_data(config: AntiPaSTOAblateConfig) -> bool:
    return config.cov_orient


def fits(config: AntiPaSTOAblateConfig, layer: Layer) -> str | None:
    if config.k > config.r:
        return f"k = {config.k} directions, but only r = {config.r} components to have them in"
    return rank_fits(config, layer)


def parameters(config: AntiPaSTOAblateConfig, layer: Layer) -> Shapes:
    return {"lora_c": (config.r, config.k), "lora_alpha": (config.k,)}


def init(config: AntiPaSTOAblateConfig, layer: Layer, seen: Moments | None = None) -> dict[str, Tensor]:
    c = torch.empty(config.r, config.k, dtype=torch.float32, device="cpu").normal_(std=config.r**-0.5)
    U, S, Vh = oriented(config, layer, seen) if seen else leading(layer.weight, config.r)
    return {"lora_c": c, "lora_alpha": c.new_full((config.k,), config.init_alpha), "lora_U": U, "lora_S": S, "lora_Vh": Vh}


def directions(c: Tensor) -> Tensor:
    """C (r, k), orthonormal columns."""
    C: Tensor = c / (c.norm() + LEAST) if c.shape[1] == 1 else torch.linalg.qr(wide(c)).Q.to(c.dtype)
    return C


def forward(config: AntiPaSTOAblateConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    C, strength = directions(t["lora_c"]), config.coeff * t["lora_alpha"].clamp(0, 1)
    return y - F.linear(F.linear(x, (C.T * t["lora_S"]) @ t["lora_Vh"]) * strength, t["lora_U"] @ C)


ANTIPASTO_ABLATE = register(
    Variant(
        name="antipasto_ablate",
        config=AntiPaSTOAblateConfig,
        parameters=parameters,
        buffers=buffers,
        init=init,
        statistics=Moments,
        uses_data=oriented_by_data,
        forward=forward,
        fits=fits,
        reads_weight=True,
        peft={},
    )
)
