"""Attach and detach. Everything is checked and computed first; the model is touched only when nothing can fail any more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lite.config import ARITHMETIC, Config
from lite.layers import Layer, targets
from lite.variant import Shapes, Variant, variant_of

ATTACHMENT = "_lite_attachment"


@dataclass(frozen=True)
class Adapter:
    """One method on one layer: the tensors it adds, and the forward hook that applies it."""

    variant: Variant
    config: Config
    layer: Layer

    @cached_property
    def parameters(self) -> Shapes:
        """Canonical names and shapes of the trainables."""
        return self.variant.parameters(self.config, self.layer)

    @cached_property
    def shapes(self) -> Shapes:
        """Canonical names and shapes of all tensors."""
        return self.parameters | self.variant.buffers(self.config, self.layer)

    def initial(self) -> dict[str, Tensor]:
        """All tensors at the start, in the adapter's dtype, on the device of the base weight."""
        weight = self.layer.weight
        dtype = self.config.dtype or (weight.dtype if weight.dtype in ARITHMETIC else torch.float32)
        with torch.no_grad():
            values = self.variant.init(self.config, self.layer)
        return {name: values[name].to(weight.device, dtype, copy=True) for name in self.shapes}

    def live(self) -> dict[str, Tensor]:
        """All tensors as the module holds them now: `.to()` and `load_state_dict` have reached them."""
        return {name: getattr(self.layer.module, name) for name in self.shapes}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
        """The forward hook."""
        if not isinstance(y, Tensor):
            raise TypeError(f"{self.layer.name}: the base layer should return a tensor, it returned {type(y).__name__}; exclude it")
        tensors = self.live()
        x = args[0] if args else kwargs[self.layer.input_name]
        adapted = self.variant.code(self.config, self.layer, tensors, x.to(_dtype_of(tensors)), y)
        return adapted.to(y.dtype)

    def adapt_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The forward pre-hook."""
        tensors, name = self.live(), self.layer.input_name
        x = args[0] if args else kwargs[name]
        wide = torch.promote_types(x.dtype, _dtype_of(tensors))  # a narrower adapter would round what the layer gets
        adapted = self.variant.code(self.config, self.layer, tensors, x.to(wide)).to(x.dtype)
        return ((adapted, *args[1:]), kwargs) if args else (args, kwargs | {name: adapted})

    def hook(self) -> RemovableHandle:
        """Put it in front of its layer or behind it."""
        module = self.layer.module
        if self.variant.adapt_input:
            return module.register_forward_pre_hook(self.adapt_input, with_kwargs=True)
        return module.register_forward_hook(self, with_kwargs=True)


@dataclass
class Attachment:
    """What `attach` did to a model: enough to undo it and to save it. Every module of the model carries it."""

    model: nn.Module
    configs: list[Config]
    adapters: list[Adapter]
    requires_grad: dict[str, bool]  # of the base parameters, before
    handles: list[RemovableHandle] = field(default_factory=list)


def attach(model: nn.Module, config: Config | Sequence[Config], calibration_data: Iterable[Any] | None = None) -> nn.Module:
    """Attach one method, or several to disjoint layers, and freeze everything else. Returns the model.

    Adapters are forward hooks; their tensors become parameters and buffers of the layer under the names of the README's
    table, so an optimizer over `[p for p in model.parameters() if p.requires_grad]` trains exactly them.

    Raises TypeError for something that is no config, ValueError for a config that matches nothing, overlaps another
    or does not fit a layer, RuntimeError if adapters are attached already. The model is then as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model should be an nn.Module, got {type(model).__name__}")
    configs = [config] if not isinstance(config, Iterable) or isinstance(config, str) else list(config)
    adapters = plan(model, configs)
    if calibration_data is not None:
        names = ", ".join(sorted({adapter.variant.name for adapter in adapters}))
        raise ValueError(f"calibration_data was given, but {names} uses none")
    commit(model, configs, [(adapter, adapter.initial()) for adapter in adapters])
    return model


def detach(model: nn.Module) -> nn.Module:
    """Undo `attach`: the model is bit for bit what it was, `requires_grad` included. Returns the model.

    Raises RuntimeError if nothing is attached.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError("nothing is attached to this model; call lite.attach first")
    undo(model, attachment)
    return model


def attached(model: nn.Module) -> Attachment | None:
    """What `attach` did to this model, not to one around or inside it, or None."""
    # Not getattr: wrappers forward it to what they wrap, whose names are not theirs.
    found: Attachment | None = vars(model).get(ATTACHMENT)
    return found if found and found.model is model else None


def plan(model: nn.Module, configs: Sequence[Config]) -> list[Adapter]:
    """One adapter, still without tensors, for each target of each config. Raises as `attach` does; touches nothing."""
    if not configs:
        raise ValueError("no config was given: pass one config, or a sequence of at least one")
    variants = [variant_of(config) for config in configs]
    for name, module in model.named_modules():
        if attachment := vars(module).get(ATTACHMENT):
            there = ", ".join(variant_of(config).name for config in attachment.configs)
            where = name or ("this model" if attachment.model is module else "a model around this module")
            raise RuntimeError(
                f"{there} is attached already (to {where}), {', '.join(v.name for v in variants)} cannot be added; "
                f"call lite.detach first, or attach all configs at once: lite.attach(model, [config, …])"
            )
    adapters: dict[str, Adapter] = {}
    for config, variant in zip(configs, variants, strict=True):
        for layer in targets(model, config):
            if other := adapters.get(layer.name):
                raise ValueError(
                    f"two configs target {layer.name}: {other.config!r} and {config!r}; narrow one with target_names or exclude_names"
                )
            adapters[layer.name] = Adapter(variant, config, layer)
            _check_fits(adapters[layer.name])
    return list(adapters.values())


def _check_fits(adapter: Adapter) -> None:
    layer, variant = adapter.layer, adapter.variant
    where = f"{variant.name} on {layer.name or 'the model itself'}"
    if layer.weight.is_complex():
        raise ValueError(f"{where}: the weight is {layer.weight.dtype!s}, adapters are real; exclude the layer")
    if variant.reads_weight and not layer.is_dense:
        raise ValueError(
            f"{where}: the method reads the weight as a dense floating-point ({layer.d_out}, {layer.d_in}) matrix, "
            f"but it is {layer.weight.dtype!s} {tuple(layer.weight.shape)}; dequantise the layer or exclude it"
        )
    if not layer.is_dense and layer.weight.dtype in ARITHMETIC:
        raise ValueError(
            f"{where}: in_features and out_features say ({layer.d_out}, {layer.d_in}), the weight is {tuple(layer.weight.shape)}"
        )
    if problem := variant.fits(adapter.config, layer):
        raise ValueError(f"{where}: {problem}")
    taken = [name for name in adapter.shapes if hasattr(layer.module, name)]
    if taken:
        raise RuntimeError(f"{where}: the layer owns {', '.join(taken)} already; detach what put it there")


def commit(model: nn.Module, configs: Sequence[Config], planned: Sequence[tuple[Adapter, Mapping[str, Tensor]]]) -> None:
    """Put planned adapters and their tensors into the model. What fails here is undone."""
    adapters = [adapter for adapter, _ in planned]
    if torch.is_inference_mode_enabled():
        raise RuntimeError("adapters made inside torch.inference_mode could never be trained; attach outside of it")
    attachment = Attachment(model, list(configs), adapters, {name: p.requires_grad for name, p in model.named_parameters()})
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for adapter, tensors in planned:
            module = adapter.layer.module
            for name, value in tensors.items():
                if name in adapter.parameters:
                    module.register_parameter(name, nn.Parameter(value))
                else:
                    module.register_buffer(name, value)
            attachment.handles.append(adapter.hook())
        for module in model.modules():
            setattr(module, ATTACHMENT, attachment)
    except BaseException:
        undo(model, attachment)
        raise


def undo(model: nn.Module, attachment: Attachment) -> None:
    """Take everything out again that `commit` put in."""
    for handle in attachment.handles:
        handle.remove()
    for adapter in attachment.adapters:
        for name in adapter.shapes:
            if hasattr(adapter.layer.module, name):
                delattr(adapter.layer.module, name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(attachment.requires_grad.get(name, parameter.requires_grad))  # newer ones stay
    for module in model.modules():
        vars(module).pop(ATTACHMENT, None)


def _dtype_of(tensors: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(tensors.values())).dtype


def full_name(layer: Layer, tensor: str) -> str:
    """What `model.state_dict()` calls a tensor of a layer."""
    return f"{layer.name}.{tensor}" if layer.name else tensor
