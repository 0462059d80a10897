"""What a method has to say about itself, and the table of all methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lite.config import Config
from lite.layers import Layer

Shapes = dict[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

VARIANTS: dict[str, "Variant"] = {}


# Functions with names, not lambdas, so that attached models can be pickled.


def no_buffers(config: Config, layer: Layer) -> Shapes:
    """For methods without frozen tensors."""
    return {}


def fits_anything(config: Config, layer: Layer) -> str | None:
    """For methods that suit a layer of any size."""
    return None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One adapter method.

    parameters, buffers: canonical names and shapes of the trainables and of the frozen tensors, for a config and layer.
    init: their values at the start, drawn in float32 from the global generator whatever the adapter's dtype.
    forward: (config, layer, tensors, x, y) → the adapted output; x (…, d_in) in the adapter's dtype, y = x Wᵀ + b (…, d_out).
    adapt_input: (config, layer, tensors, x) → what the base layer gets instead of x (in the wider dtype of the two), for methods on the input
        side. One of the two is there.
    fits: (config, layer) → what is wrong with this size of layer for these options, or None.
    reads_weight: needs W as floating-point numbers, so quantised layers are refused.
    peft: canonical name → what peft's checkpoint calls the tensor (see `refs.maps` for the notation).
    """

    name: str
    config: type[Config]
    parameters: Callable[[Any, Layer], Shapes]
    buffers: Callable[[Any, Layer], Shapes] = no_buffers
    init: Callable[[Any, Layer], Tensors]
    forward: Callable[[Any, Layer, Tensors, Tensor, Tensor], Tensor] | None = None
    adapt_input: Callable[[Any, Layer, Tensors, Tensor], Tensor] | None = None
    fits: Callable[[Any, Layer], str | None] = fits_anything
    reads_weight: bool
    peft: dict[str, Any]

    @property
    def code(self) -> Callable[..., Tensor]:
        """The function that computes the method, on whichever side."""
        function = self.forward or self.adapt_input
        if function is None:
            raise ValueError(f"variant {self.name!r} has neither forward nor adapt_input")
        return function


def register(variant: Variant) -> Variant:
    """Enter a method into the table."""
    if variant.name in VARIANTS:
        raise ValueError(f"variant {variant.name!r} exists already")
    VARIANTS[variant.name] = variant
    return variant


def variant_of(config: Config) -> Variant:
    """The method a config belongs to; TypeError that lists the known ones for anything else."""
    for variant in VARIANTS.values():
        if type(config) is variant.config:
            return variant
    known = ", ".join(variant.config.__name__ for variant in VARIANTS.values())
    raise TypeError(f"{config!r} is not the config of a known variant; known: {known}")
