"""The freedom of a decomposition: the signs of its components. Implementations are compared after their signs are aligned."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Turn = Callable[[Tensor, Tensor], Tensor]  # (value, signs of the components) → value with these signs
# Tensor → its axes that run over the components, or over the first of them; or what their signs do to it.
Gauge = Mapping[str, Sequence[int] | Turn]


def signs(gauge: Gauge, own: Tensor, reference: Tensor) -> Tensor:
    """±1 per component (r,): whether a start of the gauge's first tensor, which it knows by axes, points the same way as the reference's."""
    axes = next(iter(gauge.values()))
    assert not callable(axes)
    along = (own * reference).movedim(axes[0], 0).flatten(1).sum(dim=1)
    return torch.where(along < 0, -1.0, 1.0).double()


def turned(gauge: Gauge, name: str, value: Tensor, sign: Tensor) -> Tensor:
    """A tensor with its components' signs changed."""
    rule = gauge.get(name, ())
    if callable(rule):
        return rule(value, sign.to(value.dtype))
    for axis in rule:
        shape = [1] * value.ndim
        shape[axis] = -1
        value = value * sign[: value.shape[axis]].to(value.dtype).reshape(shape)
    return value
