"""A variant on all of its layers: is the model's output what it was? One layer at a time has an adapter, while the model runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conformance import policy
from conformance.model.one_layer import hosted
from conformance.model.stream import Outputs, replaced
from conformance.policy import Judgement
from conformance.suite import Lifecycle
from lite.layers import Layer
from refs.numbers import signs

DRAWS = 2


def adapted(
    model: nn.Module, batch: Mapping[str, Any], layers: Sequence[Layer], lifecycle: Lifecycle, files: Mapping[str, Path]
) -> Outputs:
    """The model's outputs with the starts that are in `files`, by the name of their layer."""

    def change(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        host = hosted(layer)
        lifecycle.load(host, files[layer.name])
        try:
            changed: Tensor = host(x)
        finally:
            lifecycle.detach(host)
        return changed

    return replaced(model, batch, [layer for layer in layers if layer.name in files], change)


def roundings(model: nn.Module, batch: Mapping[str, Any], layers: Sequence[Layer], plain: Outputs) -> dict[str, float]:
    """κ of every output: its largest relative change in units of u, when each layer's y is moved by one rounding of |x||W|ᵀ + |b|; at
    least 1.
    """
    kappa = dict.fromkeys(plain, 1.0)
    for draw in range(DRAWS):

        def jitter(layer: Layer, x: Tensor, y: Tensor, draw: int = draw) -> Tensor:
            bias = None if layer.bias is None else layer.bias.abs()
            unit = policy.unit_roundoff(y.dtype)
            moved = unit * linear(x.abs(), layer.weight.abs(), bias).double() * signs(draw, layer.name, shape=tuple(y.shape))
            return (y.double() + moved).to(y.dtype)

        for name, value in replaced(model, batch, layers, jitter).items():
            change = policy.distance(value, plain[name]) / policy.unit_roundoff(value.dtype)
            kappa[name] = max(kappa[name], change)
    return kappa


def judged(output: Outputs, plain: Outputs, kappa: Mapping[str, float], layers: Sequence[Layer]) -> dict[str, Judgement]:
    """What the policy says of each of the model's outputs."""
    n = max((layer.d_in for layer in layers), default=1)
    return {name: policy.same_output(output[name], plain[name], n=n, kappa=kappa[name]) for name in plain}


def farthest(output: Outputs, plain: Outputs) -> float:
    """The largest ‖y − y_base‖/‖y_base‖ of the model's outputs."""
    return max((policy.distance(output[name], plain[name]) for name in plain), default=0.0)


def is_finite(outputs: Outputs) -> bool:
    """Whether every number is."""
    return all(bool(torch.isfinite(value).all()) for value in outputs.values())
