"""OLoRA: LoRA that starts as the leading part of the weight's QR decomposition, beside a frozen residual.

y = x W_resᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  W_res = W − s·B₀A₀;  W = Q R,  A₀ = R[:r],  B₀ = Q[:, :r],  s as in LoRA
Identity at init: up to rounding: the residual is rounded to the base's dtype, and two sums replace one.
Departures: works on weights that are stored transposed (GPT-2's Conv1D), where peft decomposes the transpose: it crashes on a non-square
one and is not the identity on a square one (olora-conv1d). r above min(d_out, d_in) is refused. A float64 base is decomposed in float64, peft
refuses it. W_res is formed from A₀ and B₀ as they are stored, rounded (olora-rounded-after: peft rounds them afterwards).
Costs one more copy of every targeted weight: the original is kept for `detach`.
Sources: Büyükakyüz 2024 (arXiv:2406.01775) alg. 1; peft `tuners/lora/layer.py` (`olora_init`).
"""

import dataclasses

import torch
from torch import Tensor

from lite.config import options
from lite.decomposition import decomposable, rank_fits
from lite.layers import Layer
from lite.variant import Variant, register
from lite.variants import lora, pissa


@options
class OLoRAConfig(lora.BiasedConfig):
    """OLoRA (arXiv:2406.01775).

    r: rank of the trained part, at most min(d_out, d_in).
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    """


def init(config: OLoRAConfig, layer: Layer) -> dict[str, Tensor]:
    Q, R = torch.linalg.qr(decomposable(layer.weight))
    return {"lora_A": R[: config.r], "lora_B": Q[:, : config.r], "lora_b": Q.new_zeros(layer.d_out)}


OLORA = register(
    Variant(
        name="olora",
        config=OLoRAConfig,
        parameters=lora.parameters,
        init=init,
        residual=pissa.residual,
        forward=lora.forward,
        fits=rank_fits,
        reads_weight=True,
        peft=lora.LORA.peft,
        peft_form=dataclasses.replace(pissa.PEFT, told_by={"init_lora_weights": ("olora",), "use_dora": (False,)}),
    )
)
