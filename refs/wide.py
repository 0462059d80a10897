"""Whole models in float64: transformers takes norms and softmax in float32 whatever a model's dtype, which would be noise there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from refs.numbers import signs


class Wide(TorchFunctionMode):
    """While it is entered, whoever asks torch for float32 gets float64. Comparisons in float64 are then of every operation."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operation."""
        if function is Tensor.float:
            return Tensor.double(*args)
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return function(*map(_wide, args), **named)


class Rounded(TorchFunctionMode):
    """While it is entered, everything that gradients flow through is moved by one float32 rounding, up or down, and so are these
    gradients: what a computation in float32 does to a model, beside what it does to the numbers that come in.
    """

    def __init__(self, *key: object) -> None:
        super().__init__()
        self.key, self.count = key, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operation; not those that change a tensor in place."""
        result = function(*args, **(kwargs or {}))
        computed = isinstance(result, Tensor) and result.grad_fn is not None and not any(result is given for given in args)
        if not computed or not result.is_floating_point():
            return result
        self.count += 1
        return result * (1 + 2.0**-24 * signs(*self.key, self.count, shape=tuple(result.shape)))


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
