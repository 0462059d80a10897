"""lite's side alone, for methods and layers that peft does not have; and what a model returns."""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lite
from conformance import policy
from conformance.suite_of import suite_of
from conformance.suites.lite_layers import LiteLayer
from conformance.whole import sides
from conformance.whole.sides import EFFECT, Side
from refs.models import Model
from refs.numbers import normal

Outputs = dict[str, Tensor]


def alone(variant: str, model: Model) -> Side:
    """A variant on a whole model in float64, moved away from its start until the output has moved by `EFFECT`."""
    suite = suite_of(variant)
    candidate = suite.candidate
    assert isinstance(candidate, LiteLayer)
    targets = tuple(rf"(^|\.){re.escape(end)}$" for ends in sides.placement(variant, model).values() for end in ends)
    base = model.fresh(torch.float64)
    plain = outputs(model, base)
    torch.manual_seed(0)
    options: dict[str, Any] = {**candidate.small, "target_names": targets}
    lite.attach(base, lite.VARIANTS[variant].config(**options), [model.batch()] if suite.formula.takes_data(suite.bare) else None)
    side = sides.lite_side(base)
    start, strength = {name: side.read(name) for name in side.trainable}, 2.0**-8
    while True:
        noise = {name: normal("alone", variant, model.name, name, shape=tuple(value.shape)) for name, value in start.items()}
        side.write({name: value + strength * noise[name] for name, value in start.items()})
        if farthest(outputs(model, base), plain) >= EFFECT or strength > 2.0**8:
            return side
        strength *= 2


def farthest(got: Outputs, plain: Outputs) -> float:
    """The largest relative change of an output."""
    return max(policy.distance(got[name], plain[name]) for name in plain)


@torch.no_grad()
def outputs(model: Model, module: nn.Module) -> Outputs:
    """Loss and logits or last hidden state, in eval mode."""
    module.eval()
    return {name: value.detach().clone() for name, value in model.outputs(module, model.batch()).items()}


def sensitivity(model: Model, side: Side) -> dict[str, float]:
    """κ of every output."""
    return sides.sensitivity(side, outputs(model, side.module), partial(outputs, model, side.module))


def longest(model: Model, module: nn.Module) -> int:
    """n of the bounds: the longest sum."""
    sizes: list[int] = [size for tensor in module.state_dict().values() for size in tensor.shape[-2:]]
    return max(model.batch()["input_ids"].numel(), *sizes)
