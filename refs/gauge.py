"""The freedom of a decomposition: the signs of its components. Implementations are compared after their signs are aligned."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Gauge = Mapping[str, Sequence[int]]  # tensor → its axes that run over the components, or over the first of them


def signs(gauge: Gauge, own: Tensor, reference: Tensor) -> Tensor:
    """±1 per component (r,): whether a start of the gauge's first tensor points the same way as the reference's."""
    axis = next(iter(gauge.values()))[0]
    along = (own * reference).movedim(axis, 0).flatten(1).sum(dim=1)
    return torch.where(along < 0, -1.0, 1.0).double()


def turned(gauge: Gauge, name: str, value: Tensor, sign: Tensor) -> Tensor:
    """A tensor with its components' signs changed."""
    for axis in gauge.get(name, ()):
        shape = [1] * value.ndim
        shape[axis] = -1
        value = value * sign[: value.shape[axis]].to(value.dtype).reshape(shape)
    return value
