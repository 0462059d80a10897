"""PiSSA: LoRA that starts as the weight's leading singular part, beside a frozen residual.

y = x W_resᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  W_res = W − s·B₀A₀;  W = U S Vᵀ,  A₀ = √(S_r/s)·V_rᵀ,  B₀ = U_r·√(S_r/s),  s as in LoRA
Identity at init: up to rounding: the residual is rounded to the base's dtype, and two sums replace one.
Departures: W_res is formed from A₀ and B₀ as they are stored, rounded; peft forms it from float32 factors and rounds these
afterwards, which costs half as much again in bfloat16 (pissa-rounded-after). r above min(d_out, d_in) is refused; peft builds it and
cannot convert it to a plain LoRA. A float64 base is decomposed in float64; peft refuses it. A file keeps A₀ and B₀, so that a randomised start (niter)
comes back; peft draws again. Costs one more copy of every targeted weight: the original is kept for `detach`.
Sources: Meng et al. 2024 (arXiv:2404.02948) §3; peft `tuners/lora/layer.py` (`pissa_init`); the authors' `utils/init_qpissa.py`
(`pissa_quant`), whose s is 1.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from lite.config import option, optional, options, positive_int
from lite.decomposition import leading, rank_fits, without
from lite.layers import Layer
from lite.variant import Tensors, Variant, register
from lite.variants import lora


@options
class PiSSAConfig(lora.BiasedConfig):
    """PiSSA (arXiv:2404.02948).

    r: rank of the trained part, at most min(d_out, d_in).
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    niter: None for the exact decomposition, else the power iterations of a randomised one, drawn from the global generator.
    """

    niter: int | None = option(None, optional(positive_int))


def init(config: PiSSAConfig, layer: Layer) -> dict[str, Tensor]:
    U, S, Vh = leading(layer.weight, config.r, config.niter)
    return balanced(config, U, S, Vh)


def balanced(config: lora.BiasedConfig, U: Tensor, S: Tensor, Vh: Tensor) -> dict[str, Tensor]:
    """A and B with s·B A = U S Vh, each with one half of S."""
    root = (S / lora.scale(config)).sqrt()  # (r,)
    return {"lora_A": root[:, None] * Vh, "lora_B": U * root, "lora_b": U.new_zeros(U.shape[0])}


def residual(config: lora.BiasedConfig, weight: Tensor, t: Tensors) -> Tensor:
    return without(weight, lora.scale(config), t["lora_B"], t["lora_A"])


def to_plain(config: lora.BiasedConfig, t: Tensors) -> dict[str, Tensor]:
    """A plain LoRA of rank 2r beside the whole weight: what is trained, less what it started as."""
    A, B = t["lora_A"], t["lora_B"]
    A = torch.cat([A, t["lora_A.start"].to(A)])  # the start keeps its dtype where a model is cast
    B = torch.cat([B, -t["lora_B.start"].to(B)], dim=1)
    bias = {"lora_B.bias": t["lora_b"]} if config.lora_bias else {}
    return {"lora_A.weight": A, "lora_B.weight": B} | bias


def from_plain(t: Tensors) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The way back, bit for bit."""
    (A, A_start), (B, B_start) = t["lora_A.weight"].chunk(2), t["lora_B.weight"].chunk(2, dim=1)
    values = {"lora_A": A, "lora_B": B, "lora_A.start": A_start, "lora_B.start": -B_start}
    if "lora_B.bias" in t:
        values |= {"lora_b": t["lora_B.bias"], "lora_b.start": torch.zeros_like(t["lora_B.bias"])}
    return {name: value.contiguous() for name, value in values.items()}, {}


def plain(config: lora.BiasedConfig) -> dict[str, Any]:
    """peft's fields for it: s stays."""
    return {"r": 2 * config.r, "lora_alpha": 2 * config.r * lora.scale(config), "use_rslora": False}


PEFT = dataclasses.replace(
    lora.PEFT,
    start={},
    told_by={"init_lora_weights": ("pissa",), "use_dora": (False,)},
    written=plain,
    to_peft=to_plain,
    from_peft=from_plain,
)

PISSA = register(
    Variant(
        name="pissa",
        config=PiSSAConfig,
        parameters=lora.parameters,
        init=init,
        residual=residual,
        forward=lora.forward,
        fits=rank_fits,
        reads_weight=True,
        peft=lora.LORA.peft,
        peft_form=PEFT,
    )
)
