"""Attach and detach. Everything is checked and computed first; the model is touched only when nothing can fail any more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from lite.adapter import Adapter
from lite.calibration import PROGRESS_AFTER, calibrate
from lite.config import ARITHMETIC, Config
from lite.layers import Layer, targets
from lite.variant import Statistics, variant_of

ATTACHMENT = "_lite_attachment"
MERGED: WeakSet[nn.Module] = WeakSet()  # models whose adapters are in their weights, to tell their users so


@dataclass(frozen=True)
class Planned:
    """An adapter, its tensors, and the ones it started with where these took a part out of the weight."""

    adapter: Adapter
    tensors: Mapping[str, Tensor]
    start: Mapping[str, Tensor]


@dataclass
class Attachment:
    """What `attach` did to a model: enough to undo it and to save it. Every module of the model carries it.

    left_out: layers that a method targeted and gave no share of its budget.
    requires_grad: of the base parameters, before. originals: weights that were replaced, by the name of their layer.
    starts: by the name of the layer, the factors that its residual was formed with.
    """

    model: nn.Module
    configs: list[Config]
    adapters: list[Adapter]
    left_out: list[Adapter]
    requires_grad: dict[str, bool]
    originals: dict[str, nn.Parameter] = field(default_factory=dict)
    starts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    handles: list[RemovableHandle] = field(default_factory=list)

    def base_weight(self, layer: Layer) -> Tensor:
        """The undamaged weight (d_out, d_in), in the dtype and on the device that the model has now."""
        if layer.name not in self.originals:
            return layer.weight
        original = self.originals[layer.name].detach().to(layer.weight.device, layer.weight.dtype)
        return original.T if layer.transposed else original


def attach(model: nn.Module, config: Config | Sequence[Config], calibration_data: Iterable[Any] | None = None) -> nn.Module:
    """Attach one method, or several to disjoint layers, and freeze everything else. Returns the model.

    Adapters are forward hooks; their tensors become parameters and buffers of the layer under the names of the README's
    table, so an optimizer over `[p for p in model.parameters() if p.requires_grad]` trains exactly them.
    Methods that take a part out of the weight (their files say so) replace it by what is left, and keep the original.

    calibration_data: for methods that start from data: an iterable of model inputs, each a tensor, a tuple or a mapping; a mapping's
        `attention_mask`, and `label_mask` where the method uses it, (batch, tokens), say which tokens count. It is run through the
        model as it is, in eval mode, before anything is changed.

    Raises TypeError for something that is no config, ValueError for a config that matches nothing, overlaps another
    or does not fit a layer, for missing, superfluous or unfit data, or a weight to decompose that is not finite; RuntimeError if
    adapters are attached already. The model is then as it was.
    """
    configs = [config] if not isinstance(config, Iterable) or isinstance(config, str) else list(config)
    adapters = plan(model, configs)
    statistics = _statistics(model, adapters, calibration_data)
    adapters, left_out = resolve(adapters, statistics)
    planned = []
    for adapter in tqdm(adapters, desc="attach", unit="layer", delay=PROGRESS_AFTER):
        tensors = adapter.initial(statistics.pop(adapter.layer.name, None))  # nobody else's: it may be large
        planned.append(Planned(adapter, tensors, tensors))
    commit(model, configs, planned, left_out)
    return model


def _statistics(model: nn.Module, adapters: Sequence[Adapter], data: Iterable[Any] | None) -> dict[str, Statistics]:
    """What the layers receive whose method starts from data."""
    take = [adapter for adapter in adapters if adapter.variant.takes_data(adapter.asked)]
    if data is None:
        if need := sorted({adapter.variant.name for adapter in take if adapter.variant.needs_data}):
            raise ValueError(f"{', '.join(need)} starts from data: pass calibration_data, an iterable of model inputs")
        return {}
    if not take:
        names = sorted({adapter.variant.name for adapter in adapters})
        raise ValueError(f"calibration_data was given, but {', '.join(names)} uses none with these options")
    return calibrate(model, [(adapter.asked, adapter.layer) for adapter in take], data)


def resolve(adapters: Sequence[Adapter], statistics: Mapping[str, Statistics]) -> tuple[list[Adapter], list[Adapter]]:
    """The adapters with what each layer's config comes to, and those that get no share."""
    resolved, left_out = [], []
    for asked in {id(adapter.asked): adapter.asked for adapter in adapters}.values():
        group = [adapter for adapter in adapters if adapter.asked is asked]
        seen = [statistics.get(adapter.layer.name) for adapter in group]
        configs = group[0].variant.resolve(asked, [adapter.layer for adapter in group], seen)
        for adapter, config in zip(group, configs, strict=True):
            if config is None:
                left_out.append(adapter)
            else:
                resolved.append(replace(adapter, config=config))
    return resolved, left_out


def detach(model: nn.Module) -> nn.Module:
    """Undo `attach`: the model is bit for bit what it was, `requires_grad` included. Returns the model.

    Raises RuntimeError if nothing is attached, or what was is merged.
    """
    attachment = attached(model)
    if attachment is None and uncompiled(model) in MERGED:
        raise RuntimeError(
            "nothing is attached to this model: its adapters were merged into its weights, which stay; load the base again"
        )
    if attachment is None:
        raise RuntimeError("nothing is attached to this model; call lite.attach first")
    undo(attachment.model, attachment)
    return model


def attached(model: nn.Module) -> Attachment | None:
    """What `attach` did to this model, not to one around or inside it, or None."""
    model = uncompiled(model)
    # Not getattr: wrappers forward it to what they wrap, whose names are not theirs.
    found: Attachment | None = vars(model).get(ATTACHMENT)
    return found if found and found.model is model else None


def uncompiled(model: nn.Module) -> nn.Module:
    """What `torch.compile` wrapped, or the model itself; TypeError for anything else."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model should be an nn.Module, got {type(model).__name__}")
    return model._modules["_orig_mod"] or model if type(model).__name__ == "OptimizedModule" else model


def plan(model: nn.Module, configs: Sequence[Config]) -> list[Adapter]:
    """One adapter, still without tensors, for each target of each config. Raises as `attach` does; touches nothing."""
    if uncompiled(model) is not model:
        raise ValueError("the model is compiled, and would go on without hooks; attach to the model that was compiled, before that")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("adapters made inside torch.inference_mode could never be trained; attach outside of it")
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
            adapters[layer.name] = Adapter(variant, config, layer, config)
            _check_fits(adapters[layer.name])
    return list(adapters.values())


def _check_fits(adapter: Adapter) -> None:
    layer, variant, where = adapter.layer, adapter.variant, adapter.where
    if layer.weight.is_complex():
        raise ValueError(f"{where}: the weight is {layer.weight.dtype!s}, adapters are real; exclude the layer")
    if not layer.is_dense and layer.weight.dtype in ARITHMETIC:
        raise ValueError(
            f"{where}: in_features and out_features say ({layer.d_out}, {layer.d_in}), the weight is {tuple(layer.weight.shape)}; exclude it"
        )
    if variant.reads_weight and not layer.is_dense:
        raise ValueError(
            f"{where}: the method reads the weight as a dense floating-point ({layer.d_out}, {layer.d_in}) matrix, "
            f"but it is {layer.weight.dtype!s} {tuple(layer.weight.shape)}; dequantise the layer or exclude it"
        )
    if problem := variant.fits(adapter.config, layer):
        raise ValueError(f"{where}: {problem}")
    if variant.residual and not isinstance(layer.module.weight, nn.Parameter):
        raise ValueError(f"{where}: the method replaces the weight, which is no parameter of the layer here; exclude it")
    taken = [name for name in adapter.shapes if hasattr(layer.module, name)]
    if taken:
        raise RuntimeError(f"{where}: the layer owns {', '.join(taken)} already; detach what put it there")


def commit(model: nn.Module, configs: Sequence[Config], planned: Sequence[Planned], left_out: Sequence[Adapter]) -> None:
    """Put planned adapters and their tensors into the model. What fails here is undone."""
    attachment = Attachment(
        model,
        list(configs),
        [p.adapter for p in planned],
        list(left_out),
        {name: p.requires_grad for name, p in model.named_parameters()},
    )
    residuals = [p.adapter.residual(p.adapter.layer.weight, p.start) for p in planned]
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for p, residual in zip(planned, residuals, strict=True):
            adapter, module = p.adapter, p.adapter.layer.module
            if residual is not None:
                replace_weight(attachment, p, residual)
            for name, value in p.tensors.items():
                if name in adapter.parameters:
                    module.register_parameter(name, nn.Parameter(value))
                else:
                    module.register_buffer(name, value)
            attachment.handles.append(adapter.hook())
        for module in model.modules():
            setattr(module, ATTACHMENT, attachment)
        MERGED.discard(model)
    except BaseException:
        undo(model, attachment)
        raise


def replace_weight(attachment: Attachment, p: Planned, residual: Tensor) -> None:
    """Put the residual in the weight's place. A new parameter: one that is tied to the weight keeps the original."""
    name, module = p.adapter.layer.name, p.adapter.layer.module
    assert isinstance(module.weight, nn.Parameter)
    attachment.originals.setdefault(name, module.weight)
    attachment.starts[name] = {key: value.detach().clone() for key, value in p.start.items()}
    module.weight = nn.Parameter(residual, requires_grad=False)


def undo(model: nn.Module, attachment: Attachment) -> None:
    """Take everything out again that `commit` put in."""
    for handle in attachment.handles:
        handle.remove()
    for adapter in attachment.adapters:
        module, original = adapter.layer.module, attachment.originals.get(adapter.layer.name)
        if original is not None and module.weight is not original:
            original.data = original.data.to(adapter.layer.weight.device, adapter.layer.weight.dtype)  # as the model was moved
            module.weight = original
    for adapter in attachment.adapters:
        for name in adapter.shapes:
            if hasattr(adapter.layer.module, name):
                delattr(adapter.layer.module, name)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(attachment.requires_grad.get(name, parameter.requires_grad))  # newer ones stay
    for module in model.modules():
        vars(module).pop(ATTACHMENT, None)


def full_name(layer: Layer, tensor: str) -> str:
    """What `model.state_dict()` calls a tensor of a layer."""
    return f"{layer.name}.{tensor}" if layer.name else tensor
