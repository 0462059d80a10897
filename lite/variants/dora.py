"""DoRA: the adapted weight's direction from a low-rank update, its row norms from a trainable magnitude.

y = b + (m/n) ∘ (x Vᵀ),  V = W + s·BA,  n_i = ‖V_i‖₂ per output row, detached;  m (d_out,) starts at ‖W_i‖₂
With dropout in training: y = x Wᵀ + b + (m/n − 1) ∘ (drop(x) Wᵀ) + (m/n) ∘ s·(drop(x) Aᵀ) Bᵀ.
Identity at init: B = 0 and m = n, so m/n is exactly 1 and the added terms exactly zero.
Departures: dora-full-gradient, the norm as a part of the gradient of A and B (the authors' `dora_simple=False`), is a different choice;
§4.3, the authors' default and peft detach, so does this. With o = x Wᵀ + b + s·(x Aᵀ) Bᵀ it is (m/n) ∘ o + (1 − m/n) ∘ b, as long as b takes
few of the digits of o; under a large bias peft loses digits of the gradient of m, here x Wᵀ is computed again, as with dropout.
The dense V is never formed: ‖V_i‖² = ‖W_i‖² + 2s·b_i·(A W_iᵀ) + s²·b_i (A Aᵀ) b_iᵀ, with b_i the rows of B; the sum of squares keeps its
digits as long as nothing cancels, and rows with ‖W_i‖ + ‖s·b_i A‖ > 4‖V_i‖ are computed in full. At B = 0 it is ‖W_i‖ bit for bit.
Sources: Liu et al. 2024 (arXiv:2402.09353) eq. 5 and §4.3; peft `tuners/lora/dora.py` (`DoraLinearLayer.forward`); the authors' two
forks of peft, NVlabs/DoRA `tuners/dora.py` (`Linear.forward`).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.config import one_of, option, options
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import lora

CANCELLED = 4.0  # by how much two parts of a row may be larger than their sum
BIASED, TOKENS = 4.0, 64  # how many times larger than x Vᵀ a bias may be, by how many tokens


@options
class DoRAConfig(lora.LowRankConfig):
    """DoRA (arXiv:2402.09353).

    r: rank of the update.
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training; the base result's correction
        sees the same dropped input, as in peft.
    rslora: scale by alpha/√r instead of alpha/r.
    init: of A, "kaiming" (uniform ±1/√d_in) or "gaussian" (standard deviation 1/r); B starts at zero.
    """

    init: str = option("kaiming", one_of("kaiming", "gaussian"))


def parameters(config: DoRAConfig, layer: Layer) -> Shapes:
    return {"lora_A": (config.r, layer.d_in), "lora_B": (layer.d_out, config.r), "lora_m": (layer.d_out,)}


def init(config: DoRAConfig, layer: Layer) -> dict[str, Tensor]:
    # Through the adapter's dtype, as `forward` computes n: then m/n is exactly 1.
    weight = layer.weight.to(config.dtype or layer.weight.dtype)
    return {
        "lora_A": lora.uniform_or_normal(config.init, config.r, layer.d_in),
        "lora_B": torch.zeros(layer.d_out, config.r),
        "lora_m": torch.linalg.norm(weight, dim=1),
    }


def forward(config: DoRAConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    A, B, m = t["lora_A"], t["lora_B"], t["lora_m"]
    s, W = lora.scale(config), layer.weight.to(m.dtype)
    with torch.no_grad():
        n = row_norms(W, A, B, s)
    gain: Tensor = m / n  # (d_out,)
    dropped = F.dropout(x, config.dropout) if config.dropout and layer.module.training else x
    update = F.linear(F.linear(dropped, A) * s, B)
    added = y + update
    if dropped is x:
        if layer.bias is None:
            return gain * added
        if is_small(layer.bias, added):
            return (gain * added).add_((1 - gain) * layer.bias)
    return added + (gain - 1) * (F.linear(dropped, W) + update)


def row_norms(W: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
    """‖W_i + s·b_i A‖₂ (d_out,), without a d_out × d_in matrix unless every row cancels."""
    norm = torch.linalg.norm(W, dim=1).to(torch.promote_types(W.dtype, torch.float32))  # bit for bit what m starts as
    wide = B.to(norm.dtype)
    added = s**2 * ((wide @ (A @ A.T).to(wide)) * wide).sum(dim=1)  # ‖s·b_i A‖²
    n: Tensor = (norm * norm + (2 * s * (F.linear(A, W).T * wide).sum(dim=1) + added)).sqrt()
    unsure = ~(norm + added.sqrt() <= CANCELLED * n)  # overflow and underflow, too
    if unsure.any():
        n[unsure] = torch.linalg.norm(W[unsure] + s * (B[unsure] @ A), dim=1).to(n)
    return n.to(W.dtype)


def is_small(bias: Tensor, added: Tensor) -> bool:
    """Whether added = x Vᵀ + b keeps the digits of x Vᵀ: in every column b is at most a few times as large, by some of the tokens."""
    if torch.compiler.is_compiling():  # it is known from numbers only
        return False
    few = added.detach().reshape(-1, len(bias))[:TOKENS] - bias
    size = few.abs().mean(dim=0)
    return bool((bias.abs() <= BIASED * size).all())


def switched_on(config: DoRAConfig) -> dict[str, bool]:
    return {"use_dora": True}


PEFT = dataclasses.replace(
    lora.PEFT,
    options={"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora"},
    told_by={"init_lora_weights": (True, False, "gaussian"), "use_dora": (True,)},
    written=switched_on,
)

DORA = register(
    Variant(
        name="dora",
        config=DoRAConfig,
        parameters=parameters,
        init=init,
        forward=forward,
        reads_weight=True,
        peft={"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_m": "lora_magnitude_vector"},
        peft_form=PEFT,
    )
)
