"""Whole models in float64: transformers takes norms and softmax in float32 whatever a model's dtype, which would be noise there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


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


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
