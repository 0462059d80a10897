"""IA3, the feed-forward gate: a trainable gain on every input of the frozen layer.

y = (g ∘ x) Wᵀ + b;  the bias is left alone
Identity at init: g = 1, and a product with one is exact.
Departures: the paper scales the hidden activations of a feed-forward block; here it is done in front of the layer that
reads them, as in peft: the same function where nothing else reads them.
Sources: Liu et al. 2022 (arXiv:2205.05638) §3.3, gain l_ff; peft `tuners/ia3/layer.py` (`Linear.forward`, a target that is
among `feedforward_modules`); r-three/t-few `src/models/lora.py` (`LoRALinear`, `multi_lora_a`).
"""

import dataclasses

import torch
from torch import Tensor

from lite.config import Config, options
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register
from lite.variants import ia3


@options
class IA3FFConfig(Config):
    """IA3 on the input of a layer (arXiv:2205.05638), meant for the down projection of a feed-forward block. No options of its own."""


def parameters(config: IA3FFConfig, layer: Layer) -> Shapes:
    return {"lora_g": (layer.d_in,)}


def init(config: IA3FFConfig, layer: Layer) -> dict[str, Tensor]:
    return {"lora_g": torch.ones(layer.d_in)}


def adapt_input(config: IA3FFConfig, layer: Layer, t: Tensors, x: Tensor) -> Tensor:
    return x * t["lora_g"]  # (…, d_in)


IA3_FF = register(
    Variant(
        name="ia3_ff",
        config=IA3FFConfig,
        parameters=parameters,
        init=init,
        adapt_input=adapt_input,
        reads_weight=False,
        peft={"lora_g": {"name": "ia3_l", "shape": (1, -1)}},
        peft_form=dataclasses.replace(ia3.PEFT, lists="feedforward_modules"),
    )
)
