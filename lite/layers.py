"""Which modules are linear-like, and which of them a config targets."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lite.config import ARITHMETIC, Config

# Square projections have no role by shape alone: these write to the residual stream, all others read it.
WRITERS = re.compile(r"(^|[._])(o_proj|out_proj|c_proj|down_proj|fc2|wo|o|output\.dense)$", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A linear-like module: y = x Wᵀ + b with W (d_out, d_in), however the module stores it."""

    name: str
    module: nn.Module
    d_in: int
    d_out: int
    transposed: bool  # the module stores W as (d_in, d_out), like GPT-2's Conv1D

    @property
    def title(self) -> str:
        """Its name, for messages."""
        return self.name or "the model itself"

    @property
    def weight(self) -> Tensor:
        """W as (d_out, d_in), a view of the stored tensor."""
        stored = self.module.weight
        assert isinstance(stored, Tensor)
        return stored.T if self.transposed else stored

    @property
    def bias(self) -> Tensor | None:
        """b (d_out,) or None."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def is_dense(self) -> bool:
        """Whether W is there as numbers to compute with, not integer, float8 or packed."""
        return self.weight.dtype in ARITHMETIC and self.weight.shape == (self.d_out, self.d_in)

    @property
    def scales(self) -> list[Tensor]:
        """What a quantised weight is multiplied with, where bitsandbytes keeps it: absmax of 4 bits, SCB of 8; empty for a dense one."""
        if self.is_dense:
            return []
        state = getattr(self.module.weight, "quant_state", None)
        holders = (state, getattr(state, "state2", None), self.module.weight, getattr(self.module, "state", None))  # SCB moves
        found = [getattr(holder, name, None) for holder in holders for name in ("absmax", "offset", "SCB")]
        return list({id(value): value for value in found if isinstance(value, Tensor)}.values())

    @property
    def input_name(self) -> str:
        """What the module's forward calls its input, for calls by keyword."""
        return next(iter(inspect.signature(self.module.forward).parameters))


def as_layer(name: str, module: nn.Module) -> Layer | None:
    """`module` as a `Layer`, or None if it is not linear-like."""
    stored = getattr(module, "weight", None)
    if not isinstance(stored, Tensor):
        return None
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(d_in, int) and isinstance(d_out, int):
        return Layer(name, module, d_in, d_out, transposed=False)
    if type(module).__name__ == "Conv1D" and stored.ndim == 2:  # transformers': (d_in, d_out)
        d_in, d_out = stored.shape
        return Layer(name, module, d_in, d_out, transposed=True)
    return None


def linear_layers(model: nn.Module) -> Iterator[Layer]:
    """Every linear-like module of the model, in its order.

    Left out: wrappers around another linear-like module; parametrized ones, whose weight may change when it is read; and
    the projection inside `nn.MultiheadAttention`, which is never called, so that a hook there would never run.
    """
    uncalled = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        layer = None if is_parametrized(module) else as_layer(name, module)
        wraps = layer and any(as_layer("", inner) for inner in module.modules() if inner is not module)
        if layer and not wraps and id(module) not in uncalled:
            yield layer


def targets(model: nn.Module, config: Config) -> list[Layer]:
    """The layers `config` selects; ValueError that lists what was there if none matches."""
    layers = list(linear_layers(model))
    width = _residual_width(model, layers)
    names = all_names(model)
    chosen = [layer for layer in layers if _selects(config, layer, names[layer.module], width)]
    if not chosen:
        there = [f"{layer.name or '(the model itself)'} ({_role(layer, width)})" for layer in layers[:20]]
        more = f", and {len(layers) - 20} more" if len(layers) > 20 else ""
        raise ValueError(
            f"{type(config).__name__} matches no layer: target_names={config.target_names!r}, "
            f"exclude_names={config.exclude_names!r}, target_roles={config.target_roles!r}, layers={config.layers!r}; "
            f"the model's linear-like layers are: {', '.join(there) or 'none'}{more}"
        )
    return chosen


def all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with its names: a shared one has several."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def _selects(config: Config, layer: Layer, names: list[str], width: int) -> bool:
    if config.target_names and not any(re.search(p, name) for p in config.target_names for name in names):
        return False
    if any(re.search(p, name) for p in config.exclude_names for name in names):
        return False
    if config.target_roles and _role(layer, width) not in config.target_roles:
        return False
    return config.layers is None or _block(layer.name) in config.layers


def _block(name: str) -> int | None:
    """The number of the block a module belongs to: the first number in its dotted name."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _residual_width(model: nn.Module, layers: list[Layer]) -> int:
    """Width of the residual stream: the config's hidden_size, else the most frequent width of a layer."""
    known = getattr(getattr(model, "config", None), "hidden_size", None)
    widths = [width for layer in layers for width in (layer.d_in, layer.d_out)]
    return known if isinstance(known, int) else max(widths, key=widths.count, default=0)


def _role(layer: Layer, width: int) -> str:
    if layer.d_in == width == layer.d_out:
        return "writer" if WRITERS.search(layer.name) else "reader"
    return "reader" if layer.d_in == width else "writer" if layer.d_out == width else "inner"
