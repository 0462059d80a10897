"""IA3: a trainable gain on every output of the frozen layer.

y = g ∘ (x Wᵀ + b);  the bias is scaled with everything else
Identity at init: g = 1, and a product with one is exact.
Departures: none; where the paper scales the input of a layer (the feed-forward gate), see `ia3_ff`.
Sources: Liu et al. 2022 (arXiv:2205.05638) §3.3, gains l_k and l_v on keys and values; peft `tuners/ia3/layer.py`
(`Linear.forward`, a target that is not among `feedforward_modules`); r-three/t-few `src/models/lora.py` (`LoRALinear`, `multi_lora_b`).
"""

import torch
from torch import Tensor

from lite.config import Config, options
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register


@options
class IA3Config(Config):
    """IA3 on the output of a layer (arXiv:2205.05638); the paper's targets are keys and values. No options of its own."""


def parameters(config: IA3Config, layer: Layer) -> Shapes:
    return {"lora_g": (layer.d_out,)}


def init(config: IA3Config, layer: Layer) -> dict[str, Tensor]:
    return {"lora_g": torch.ones(layer.d_out)}


def forward(config: IA3Config, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    return y * t["lora_g"]  # (…, d_out)


def no_feedforward(config: Config) -> dict[str, list[str]]:
    return {"feedforward_modules": []}


PEFT = PeftForm(
    type="IA3",
    options={},
    written=no_feedforward,
    inert=frozenset({"init_ia3_weights", "feedforward_modules"}),
    conv1d=True,
)

IA3 = register(
    Variant(
        name="ia3",
        config=IA3Config,
        parameters=parameters,
        init=init,
        forward=forward,
        reads_weight=False,
        peft={"lora_g": {"name": "ia3_l", "shape": (-1, 1)}},
        peft_form=PEFT,
    )
)
