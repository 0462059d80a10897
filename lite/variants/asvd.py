"""ASVD: LoRA that starts as the leading part of the weight with its columns scaled by how large their inputs are.

y = x W_resᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  W_res = W − s·B₀A₀, without residual 0;  c_j = s_j^act_alpha + 1e-6,  W diag(c) = U S Vᵀ,
A₀ = √(S_r/s)·V_rᵀ diag(c)⁻¹,  B₀ = U_r·√(S_r/s);  s as in LoRA;  s_j ("abs_mean") = Σ_calls mean_t |x_tj|, ("abs_max") = max_t |x_tj|
The author's `alpha` is act_alpha here, his `scaling_method` names s_j; alpha is LoRA's, the numerator of s.
Identity at init: up to rounding: the residual is rounded to the base's dtype, and two sums replace one. Not with residual=False: the
truncated weight alone is what is left of the layer, which is the author's compression; `detach` gives the weight back in both.
Departures: the decomposition is exact; the author's is randomised, with two power iterations and no oversampling, and finds another
part where the spectrum does not fall off behind the r-th value (asvd-randomised). Everything up to A₀ and B₀ is computed in float64,
and A₀ as U_rᵀW/√(s·S_r): the same, without dividing by c. r is asked for, where the author derives it from a ratio of parameters. The
residual is that of CorDA's authors, who take ASVD as their baseline; their script trains a bias, too, which stays frozen here
(asvd-trains-bias). Batches of several sequences and padding are handled; both authors fail on them. As the author's, s_j is a sum over
calls: A is smaller and B larger the more calls there are, their product is the same but for the 1e-6. Inputs that are all zero, and what overflows, are
refused; the author then goes on with a plain or a randomly initialised layer. His Fisher information is not offered.
A file keeps A₀ and B₀ and needs no data. Costs one more copy of every targeted weight: the original is kept for `detach`.
Sources: Yuan et al. 2023 (arXiv:2312.05821) §3; hahnyuan/ASVD4LLM 8630427 `act_aware_utils.py` (`calib_input_distribution`),
`modules/svd_linear.py` (`SVDLinear.from_linear`); iboing/CorDA baffb03 `cordalib/decomposition.py` (`decompose_to_adapter`).
"""

import dataclasses

import torch
from torch import Tensor

from lite.config import flag, one_of, option, options, positive
from lite.decomposition import decomposable, rank_fits
from lite.layers import Layer
from lite.variant import Tensors, Variant, register
from lite.variants import lora, pissa

LEAST_SCALE = 1e-6  # so that a column that nothing ever reaches can be scaled back


@options
class ASVDConfig(lora.BiasedConfig):
    """ASVD (arXiv:2312.05821). Needs calibration_data; its attention_mask selects tokens.

    r: rank of the trained part, at most min(d_out, d_in).
    alpha: numerator of its scale; not the author's alpha, which is act_alpha.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    scaling_method: size of an input: "abs_mean", its mean over a call, added up over calls, or "abs_max", the largest of all.
    act_alpha: power of that size that a column of the weight is scaled by (the author's alpha).
    residual: keep the rest of the weight beside the part, so that the model starts as it was; False leaves the part alone.
    """

    scaling_method: str = option("abs_mean", one_of("abs_mean", "abs_max"))
    act_alpha: float = option(0.5, positive)
    residual: bool = option(True, flag)


class InputSizes:
    """s_j of the header, in float64: d_in numbers."""

    uses_label_mask = False
    of_input_alone = True

    def __init__(self, config: ASVDConfig, layer: Layer) -> None:
        self.method = config.scaling_method
        self.sizes = torch.zeros(layer.d_in, dtype=torch.float64, device=layer.weight.device)

    def update(self, x: Tensor) -> None:
        """Add one call's x (tokens, d_in); ValueError if its sizes cannot be added up."""
        x = x.to(self.sizes).abs()
        self.sizes = self.sizes + x.mean(dim=0) if self.method == "abs_mean" else self.sizes.maximum(x.amax(dim=0))
        if not self.sizes.isfinite().all():
            raise ValueError(f"values up to {float(x.max()):g} overflow when their sizes are added up")

    def scales(self, act_alpha: float) -> Tensor:
        """c (d_in,); ValueError if every input was zero, or c overflows."""
        if not self.sizes.any():
            raise ValueError("every input of the calibration data is zero, so that no column matters more than another")
        c = self.sizes**act_alpha + LEAST_SCALE
        if not c.isfinite().all():
            raise ValueError(f"inputs of size {float(self.sizes.max()):g} overflow at act_alpha = {act_alpha:g}")
        return c


def init(config: ASVDConfig, layer: Layer, seen: InputSizes) -> dict[str, Tensor]:
    c = seen.scales(config.act_alpha)
    W = decomposable(layer.weight).to(c)
    if not (scaled := W * c).isfinite().all():
        raise ValueError(f"the weight overflows when its columns are scaled by up to {float(c.max()):g}")
    U, S, _ = torch.linalg.svd(scaled, full_matrices=False)
    U, S = U[:, : config.r], S[: config.r]
    # V_rᵀ diag(c)⁻¹ = S_r⁻¹ U_rᵀ W: what is divided by a small c would have its rounding enlarged.
    return pissa.balanced(config, U, S, (U / S.clamp(min=torch.finfo(S.dtype).tiny)).T @ W)


def residual(config: ASVDConfig, weight: Tensor, t: Tensors) -> Tensor:
    return pissa.residual(config, weight, t) if config.residual else torch.zeros_like(weight)


def unable(config: ASVDConfig) -> str | None:
    return None if config.residual else "cannot leave the rest of the weight away (residual=False)"


ASVD = register(
    Variant(
        name="asvd",
        config=ASVDConfig,
        parameters=lora.parameters,
        init=init,
        statistics=InputSizes,
        residual=residual,
        forward=lora.forward,
        fits=rank_fits,
        reads_weight=True,
        peft=lora.LORA.peft,
        peft_form=dataclasses.replace(pissa.PEFT, told_by={"init_lora_weights": ()}, unable=unable),
    )
)
