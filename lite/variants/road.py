"""RoAd: the outputs of the frozen layer are taken in pairs, and every pair is turned and stretched.

y = R (x Wᵀ + b), for outputs i and j = i + group_size/2 of a group, with o = x Wᵀ + b:
y_i = α_i cos θ_i · o_i − α_i sin θ_i · o_j,  y_j = α_j sin θ_j · o_i + α_j cos θ_j · o_j;  the bias is turned with everything else
road_1: one θ and α for both rows of a pair; road_2: one for each row; road_4: one for each of the four entries.
Identity at init: θ = 0 and α = 1; cos 0 and a product with one are exact, and sin 0 adds an exact zero.
Departures: the paper pairs neighbours; here, as in peft, halves of a group are paired: the same methods, with the outputs in
another order.
Sources: Liao & Monz 2024 (arXiv:2409.00119) eq. 4; peft `tuners/road/layer.py` (`_apply_road`, `_prepare_cols`).
"""

import torch
from torch import Tensor

from lite.config import Config, even, one_of, option, options
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register


@options
class RoadConfig(Config):
    """RoAd (arXiv:2409.00119).

    road_variant: "road_1", "road_2" or "road_4": one, two or four angles and scales per pair of outputs.
    group_size: outputs per group, whose halves are paired; even, and it has to divide d_out.
    """

    road_variant: str = option("road_1", one_of("road_1", "road_2", "road_4"))
    group_size: int = option(64, even)


def fits(config: RoadConfig, layer: Layer) -> str | None:
    if layer.d_out % config.group_size == 0:
        return None
    return f"group_size {config.group_size} has to divide d_out, which is {layer.d_out}; set group_size or exclude the layer"


def parameters(config: RoadConfig, layer: Layer) -> Shapes:
    size = {"road_1": layer.d_out // 2, "road_2": layer.d_out, "road_4": 2 * layer.d_out}[config.road_variant]
    return {"lora_theta": (size,), "lora_alpha": (size,)}


def init(config: RoadConfig, layer: Layer) -> dict[str, Tensor]:
    (size,) = parameters(config, layer)["lora_theta"]
    return {"lora_theta": torch.zeros(size), "lora_alpha": torch.ones(size)}


def forward(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    half = config.group_size // 2
    # (groups, entries, rows, half): the one angle stands for both entries of a row or both rows of a pair, as the method says
    shape = {"road_1": (-1, 1, 1, half), "road_2": (-1, 1, 2, half), "road_4": (-1, 2, 2, half)}[config.road_variant]
    theta, alpha = t["lora_theta"].reshape(shape).unbind(1), t["lora_alpha"].reshape(shape).unbind(1)
    along, across = alpha[0] * theta[0].cos(), alpha[-1] * theta[-1].sin()  # (groups, 1 or 2, half)
    signed = across * across.new_tensor([[-1], [1]])  # the first row gets −o_j, the second o_i
    swapped = y.reshape(*y.shape[:-1], len(along), config.group_size).roll(half, dims=-1).reshape(y.shape)  # o_j where o_i stands
    # One gain for each output, laid out as the outputs are: the products then run along whole rows.
    return (y * along.expand(-1, 2, -1).flatten()).add_(swapped * signed.flatten())


ROAD = register(
    Variant(
        name="road",
        config=RoadConfig,
        parameters=parameters,
        init=init,
        forward=forward,
        fits=fits,
        reads_weight=False,
        peft={"lora_theta": "road_theta", "lora_alpha": "road_alpha"},
        peft_form=PeftForm(type="ROAD", options={"road_variant": "variant", "group_size": "group_size"}),
    )
)
