"""One method on one layer: the tensors it adds, and the hook that applies it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lite.config import ARITHMETIC, Config
from lite.layers import Layer
from lite.variant import Shapes, Statistics, Variant


@dataclass
class Adapter:
    """One method on one layer: the tensors it adds, and the hook that applies it.

    asked: the config that was attached. config: what it came to for this layer, where a budget is shared out.
    steered: the config with another coefficient, as long as `lite.steer` says so; it is not saved.
    """

    variant: Variant
    asked: Config
    layer: Layer
    config: Config
    steered: Config | None = field(default=None, compare=False)

    @property
    def active(self) -> Config:
        """The config that the forward pass reads."""
        return self.steered or self.config

    @cached_property
    def parameters(self) -> Shapes:
        """Canonical names and shapes of the trainables."""
        return self.variant.parameters(self.config, self.layer)

    @cached_property
    def shapes(self) -> Shapes:
        """Canonical names and shapes of all tensors."""
        return self.parameters | self.variant.buffers(self.config, self.layer)

    @property
    def where(self) -> str:
        """Method and layer, for messages."""
        return f"{self.variant.name} on {self.layer.title}"

    def initial(self, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """All tensors at the start, in the adapter's dtype, on the device of the base weight. statistics: of its input, if it starts from data."""
        weight = self.layer.weight
        dtype = self.config.dtype or (weight.dtype if weight.dtype in ARITHMETIC else torch.float32)
        try:
            with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):  # a start is computed as precisely as ever
                values = self.variant.init(self.config, self.layer, *([] if statistics is None else [statistics]))
        except ValueError as error:
            raise ValueError(f"{self.where}: no start can be computed: {error}") from error
        # Contiguous, as they come back from a file: another layout is summed in another order.
        start = {name: values[name].to(weight.device, dtype, copy=True).contiguous() for name in self.shapes}
        for name, value in start.items():
            self._check_finite(name, value)
        return start

    def residual(self, weight: Tensor, start: Mapping[str, Tensor]) -> Tensor | None:
        """What replaces the weight (d_out, d_in), as the module stores it; None for methods that leave it alone."""
        if self.variant.residual is None:
            return None
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            rest = self.variant.residual(self.config, weight, start)
        self._check_finite("what is left of the weight", rest)
        return (rest.T if self.layer.transposed else rest).contiguous()

    def _check_finite(self, name: str, value: Tensor) -> None:
        """Options, data or weights may be too large for a dtype."""
        if not value.isfinite().all():
            raise ValueError(f"{self.where}: {name} would not be finite in {value.dtype!s}, with {self.config!r}")

    def live(self) -> dict[str, Tensor]:
        """All tensors as the module holds them now: `.to()` and `load_state_dict` have reached them."""
        return {name: getattr(self.layer.module, name) for name in self.shapes}

    def _computing(self) -> tuple[dict[str, Tensor], torch.dtype]:
        """All tensors in the widest of their dtypes: somebody may train in another one than what is frozen."""
        tensors = self.live()
        dtypes = {tensor.dtype for tensor in tensors.values()}
        dtype = functools.reduce(torch.promote_types, dtypes)
        return (tensors if len(dtypes) == 1 else {name: tensor.to(dtype) for name, tensor in tensors.items()}), dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        """The forward hook."""
        if not isinstance(y, Tensor):
            raise TypeError(f"{self.layer.name}: the base layer should return a tensor, it returned {type(y).__name__}; exclude it")
        tensors, dtype = self._computing()
        x = args[0] if args else kwargs[self.layer.input_name]
        adapted = self.variant.code(self.active, self.layer, tensors, x.to(dtype), y)
        return adapted.to(y.dtype)

    def adapt_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The forward pre-hook."""
        tensors, dtype = self._computing()
        x = args[0] if args else kwargs[self.layer.input_name]
        wide = torch.promote_types(x.dtype, dtype)  # a narrower adapter would round what the layer gets
        adapted = self.variant.code(self.active, self.layer, tensors, x.to(wide)).to(x.dtype)
        return ((adapted, *args[1:]), kwargs) if args else (args, kwargs | {self.layer.input_name: adapted})

    def hook(self) -> RemovableHandle:
        """Put it in front of its layer or behind it."""
        module = self.layer.module
        if self.variant.adapt_input:
            return module.register_forward_pre_hook(self.adapt_input, with_kwargs=True)
        return module.register_forward_hook(self, with_kwargs=True)
