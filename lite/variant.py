"""What a method has to say about itself, and the table of all methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from lite.config import Config
from lite.layers import Layer
from lite.peft_form import PeftForm

Shapes = dict[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]

VARIANTS: dict[str, "Variant"] = {}


class Statistics(Protocol):
    """What is kept of the inputs of a layer: memory O(d_in²) at most, however many tokens there are."""

    uses_label_mask: bool  # whether a batch's `label_mask` selects tokens, beside its `attention_mask`
    of_input_alone: bool  # and of the options, not of the layer's weight: layers that receive the same tensor share one accumulator

    def update(self, x: Tensor) -> None:
        """Add what one call of the layer receives: x (tokens, d_in), at least one token. ValueError for values it cannot take."""


# Functions with names, not lambdas, so that attached models can be pickled.


def no_buffers(config: Config, layer: Layer) -> Shapes:
    """For methods without frozen tensors."""
    return {}


def always(config: Config) -> bool:
    """For methods whose every option starts from data."""
    return True


def fits_anything(config: Config, layer: Layer) -> str | None:
    """For methods that suit a layer of any size."""
    return None


def as_asked(config: Config, layers: Sequence[Layer], statistics: Sequence[Any]) -> Sequence[Config]:
    """For methods that treat every layer alike."""
    return [config] * len(layers)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One adapter method.

    parameters, buffers: canonical names and shapes of the trainables and of the frozen tensors, for a config and layer.
    init: (config, layer) → their values at the start, drawn in float32 from the global generator whatever the adapter's dtype;
        (config, layer, statistics) for methods that start from data. It may hold more than the shapes name.
    statistics: (config, layer) → an empty accumulator of what the layer receives, for methods that start from data.
    uses_data: (config) → whether these options do. needs_data: whether they cannot do without.
    resolve: (config, layers, their statistics) → the config of each layer, or None to leave it alone, for methods that share
        out a budget; ValueError for too little data.
    residual: (config, W, start) → W_res (d_out, d_in), which replaces W, for methods that take a part of W out.
    forward: (config, layer, tensors, x, y) → the adapted output; x (…, d_in) in the adapter's dtype, y = x Wᵀ + b (…, d_out).
    adapt_input: (config, layer, tensors, x) → what the base layer gets instead of x (in the wider dtype of the two), for methods on the input
        side. One of the two is there.
    fits: (config, layer) → what is wrong with this size of layer for these options, or None.
    reads_weight: needs W as floating-point numbers, so quantised layers are refused.
    peft: canonical name → what peft's checkpoint calls the tensor (see `refs.maps` for the notation).
    peft_form: how peft stores the method, or None if it has no such method.
    """

    name: str
    config: type[Config]
    parameters: Callable[[Any, Layer], Shapes]
    buffers: Callable[[Any, Layer], Shapes] = no_buffers
    init: Callable[..., Tensors]
    statistics: Callable[[Any, Layer], Statistics] | None = None
    uses_data: Callable[[Any], bool] = always
    needs_data: bool = True
    resolve: Callable[[Any, Sequence[Layer], Sequence[Any]], Sequence[Any]] = as_asked
    residual: Callable[[Any, Tensor, Tensors], Tensor] | None = None
    forward: Callable[[Any, Layer, Tensors, Tensor, Tensor], Tensor] | None = None
    adapt_input: Callable[[Any, Layer, Tensors, Tensor], Tensor] | None = None
    fits: Callable[[Any, Layer], str | None] = fits_anything
    reads_weight: bool
    peft: dict[str, Any]
    peft_form: PeftForm | None = None

    def takes_data(self, config: Config) -> bool:
        """Whether it starts from data under these options, or may."""
        return self.statistics is not None and self.uses_data(config)

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
