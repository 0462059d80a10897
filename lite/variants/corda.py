"""CorDA: LoRA that starts as the part of the weight that matters most, or least, for given data, beside a frozen residual.

y = x W_resᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  W_res = W − s·B₀A₀;  C = Σ_calls XᵀX/calls, damped;  W C = U S Vᵀ,
A₀ = √(S_r/s)·V_rᵀ C⁻¹,  B₀ = U_r·√(S_r/s);  "ipm" takes the r largest components, "kpm" the r smallest;  s as in LoRA
X holds the tokens of one call of the layer, divided by the size of its largest entry, signs counted: X/|max X|.
C is damped by damp·mean(diag C) on its diagonal, doubled until ‖C C⁻¹ − I‖ < 0.05 in the Frobenius norm.
Identity at init: up to rounding: the residual is rounded to the base's dtype, and two sums replace one.
Departures: batches of several sequences and padding are handled; peft fails on them. Everything up to A₀ and B₀ is computed in
float64, in peft in float32, and A₀ as U_rᵀW/√(s·S_r): the same, without an inverse. W_res is formed from A₀ and B₀ as they are
stored, rounded (corda-rounded-after: peft rounds them afterwards). A file keeps A₀ and B₀ and needs no data; reloading raises in peft.
Fewer tokens than r are refused. As in peft, C is a mean over calls and a bias stays frozen. The author divides by 256 whatever the number
of calls (corda-balance: A is √(256/calls) times as large, B as much smaller, their product the same) and trains a bias (corda-trains-bias).
Costs one more copy of every targeted weight: the original is kept for `detach`.
Sources: Yang et al. 2024 (arXiv:2406.05223) §3; peft `tuners/lora/corda.py` (`preprocess_corda`), `tuners/lora/layer.py` (`corda_init`);
iboing/CorDA baffb03 `cordalib/act_aware_utils.py` (`calib_cov_distribution`), `cordalib/decomposition.py` (`decompose_to_adapter`).
"""

import dataclasses

import torch
from torch import Tensor

from lite.config import one_of, option, options, positive
from lite.decomposition import decomposable, rank_fits
from lite.layers import Layer
from lite.variant import Variant, register
from lite.variants import lora, pissa

INVERSE_ERROR = 0.05  # of C C⁻¹ from I, above which C is damped more


@options
class CorDAConfig(lora.BiasedConfig):
    """CorDA (arXiv:2406.05223). Needs calibration_data; its attention_mask selects tokens.

    r: rank of the trained part, at most min(d_out, d_in).
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    mode: "ipm" trains what matters most for the data (to learn a task), "kpm" what matters least (to keep knowledge).
    damp: part of C's mean diagonal that is added to its diagonal, before C is inverted.
    """

    mode: str = option("ipm", one_of("ipm", "kpm"))
    damp: float = option(0.01, positive)


class Covariance:
    """C of the header before damping, uncentred, in float64: d_in² numbers."""

    uses_label_mask = False
    of_input_alone = True

    def __init__(self, config: CorDAConfig, layer: Layer) -> None:
        self.calls = self.tokens = 0
        self.sum = torch.zeros(layer.d_in, layer.d_in, dtype=torch.float64, device=layer.weight.device)

    def update(self, x: Tensor) -> None:
        """Add one call's x (tokens, d_in); ValueError if its largest entry is zero, or so small that what is divided by it overflows."""
        x = x.to(self.sum)
        largest = x.max().abs()
        if largest == 0:
            raise ValueError("the largest entry of a call's input is 0, so that CorDA cannot scale it; leave such batches out")
        self.sum += (x / largest).T @ (x / largest)
        self.calls += 1
        self.tokens += len(x)
        if not self.sum.diagonal().sum().isfinite():
            raise ValueError(
                f"values up to {float(x.abs().max()):g}, divided by the largest, {float(largest):g}, overflow when squared"
            )

    def damped(self, damp: float) -> Tensor:
        """C with enough added to its diagonal to be inverted; ValueError if it overflows first."""
        C = self.sum / self.calls
        eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
        while (fixed := C + damp * C.diagonal().mean() * eye).isfinite().all():
            inverse, singular = torch.linalg.inv_ex(fixed)
            if not singular and torch.dist(fixed @ inverse, eye) < INVERSE_ERROR:
                return fixed
            damp *= 2
        raise ValueError(f"the damped covariance overflows float64 at damp = {damp:g}")


def init(config: CorDAConfig, layer: Layer, covariance: Covariance) -> dict[str, Tensor]:
    if covariance.tokens < config.r:
        raise ValueError(f"{covariance.tokens} tokens are too few for r = {config.r} components; at least {config.r} are needed")
    C = covariance.damped(config.damp)
    W = decomposable(layer.weight).to(C)
    U, S, _ = torch.linalg.svd(W @ C, full_matrices=False)
    part = slice(config.r) if config.mode == "ipm" else slice(len(S) - config.r, None)
    U, S = U[:, part], S[part]
    # V_rᵀ C⁻¹ = S_r⁻¹ U_rᵀ W C C⁻¹: no inverse, whose rounding would be multiplied by C's condition.
    return pissa.balanced(config, U, S, (U / S.clamp(min=torch.finfo(S.dtype).tiny)).T @ W)


CORDA = register(
    Variant(
        name="corda",
        config=CorDAConfig,
        parameters=lora.parameters,
        init=init,
        statistics=Covariance,
        residual=pissa.residual,
        forward=lora.forward,
        fits=rank_fits,
        reads_weight=True,
        peft=lora.LORA.peft,
        peft_form=dataclasses.replace(
            pissa.PEFT, told_by={"init_lora_weights": ()}
        ),  # what was taken out is not in peft's own folder
    )
)
