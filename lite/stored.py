"""What is attached, as a file holds it, and back: configs, their layers with a fingerprint of the base, tensors by full name."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lite.adapter import Adapter
from lite.config import ARITHMETIC, Config
from lite.files import PathLike, bits
from lite.layers import Layer
from lite.runtime import Attachment, Planned, attached, commit, full_name, plan, replace_weight
from lite.variant import VARIANTS, Shapes, variant_of

START = ".start"  # ends the name of a tensor as it was when its residual was formed


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of a layer: its base's fingerprint (None: nothing), and the options of its own, None if it was left out."""

    base: str | None
    options: dict[str, Any] | None


Groups = list[tuple[Config, dict[str, Entry]]]  # each config with its layers, by name


@dataclass(frozen=True, slots=True)
class Ready:
    """A file's content, checked against a model and not yet put into it. there: what is attached and gets other values, or None."""

    there: Attachment | None
    configs: list[Config]
    planned: list[Planned]
    left_out: list[Adapter]


def described(attachment: Attachment) -> str:
    """The configs and their layers, as JSON: a list of {variant, options, layers}; layers gives each layer's name {base: fingerprint,
    options: what differs for it}, options null for a layer that was left out.
    """
    groups = [
        {
            "variant": variant_of(config).name,
            "options": config.to_dict(),
            "layers": {
                a.layer.name: {
                    "base": fingerprint(a.layer, attachment.base_weight(a.layer)),
                    "options": None if a in attachment.left_out else _difference(config, a.config),
                }
                for a in (*attachment.adapters, *attachment.left_out)
                if a.asked is config
            },
        }
        for config in attachment.configs
    ]
    return json.dumps(groups)


def held(attachment: Attachment) -> dict[str, Tensor]:
    """All tensors of all adapters by full name; RuntimeError if a replaced weight is not what its start left."""
    for adapter in attachment.adapters:
        _check_residual(attachment, adapter)
    return {
        full_name(adapter.layer, name): value.detach()
        for adapter in attachment.adapters
        for name, value in _values(attachment, adapter).items()
    }


def _check_residual(attachment: Attachment, adapter: Adapter) -> None:
    """A state dict from a model with another start brings a residual that this one's start does not explain."""
    layer = adapter.layer
    if layer.name not in attachment.starts:
        return
    original, live = attachment.originals[layer.name].detach(), layer.weight.detach()
    start = attachment.starts[layer.name]
    weight = (original.T if layer.transposed else original).to(next(iter(start.values())).device)
    formed = adapter.residual(weight, start)
    assert formed is not None
    formed = (formed.T if layer.transposed else formed).to(live.device)
    unit = max(torch.finfo(weight.dtype).eps, torch.finfo(live.dtype).eps)  # casts in between round
    bound = 8 * unit * max(float(weight.abs().max()), float(formed.abs().max()))
    if not ((live - formed).abs() <= bound).all():
        raise RuntimeError(
            f"{layer.name}: the weight is not what attach left of it, a file could not bring it back; "
            f"was a state dict of a model with another start loaded? Use lite.load, which brings the start along"
        )


def _values(attachment: Attachment, adapter: Adapter) -> dict[str, Tensor]:
    start = attachment.starts.get(adapter.layer.name, {})
    return adapter.live() | {f"{name}{START}": value for name, value in start.items()}


def prepared(model: nn.Module, file: PathLike, groups: Groups, tensors: Mapping[str, Tensor]) -> Ready:
    """Check that a file's content fits the model, without touching it; `put` does the rest. Raises as `lite.load` does."""
    configs = [config for config, _ in groups]
    there = attached(model)
    if there is not None and there.configs != configs:
        raise RuntimeError(
            f"the model has {_names(there.configs)} attached, {file} holds {_names(configs)}; call lite.detach first"
        )
    stored = {name: entry for _, layers in groups for name, entry in layers.items()}
    targeted = [*there.adapters, *there.left_out] if there else _planned(model, file, configs)
    _check_base(file, targeted, stored, there)
    adapters, left_out = _as_stored(file, targeted, stored)
    if there is not None and adapters != there.adapters:
        raise RuntimeError(f"{file} shares out its ranks in another way than what is attached; call lite.detach first")
    return Ready(there, configs, _fitting(file, adapters, tensors), left_out)


def _planned(model: nn.Module, file: PathLike, configs: list[Config]) -> list[Adapter]:
    try:
        return plan(model, configs)
    except ValueError as error:
        raise ValueError(f"{file} does not fit this model: {error}") from error


def put(model: nn.Module, ready: Ready) -> None:
    """Attach what was prepared, or replace the values of what is attached."""
    if ready.there is None:
        commit(model, ready.configs, ready.planned, ready.left_out)
    else:
        _replace(ready.there, ready.planned)


def _replace(there: Attachment, planned: list[Planned]) -> None:
    """Put a file's values into what is attached already."""
    residuals = [p.adapter.residual(there.base_weight(p.adapter.layer), p.start) for p in planned]
    for p, residual in zip(planned, residuals, strict=True):
        for name, live in p.adapter.live().items():
            live.data = p.tensors[name]  # not copy_: the file's dtype wins, as on a fresh model
        if residual is not None:
            replace_weight(there, p, residual)


def fingerprint(layer: Layer, weight: Tensor) -> str:
    """SHA-256 over a layer's base weight (d_out, d_in), bias and, where it is quantised, scales: dtype, shape and bits."""
    digest = hashlib.sha256()
    for tensor in (weight, layer.bias, *layer.scales):
        if tensor is not None:
            for part in bits(tensor):
                digest.update(part)
    return digest.hexdigest()


def groups(file: PathLike, text: str) -> Groups:
    """Read `described` back; ValueError for anything else."""
    try:
        return [(_config(entry), {name: _entry(layer) for name, layer in entry["layers"].items()}) for entry in json.loads(text)]
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} has an unreadable list of adapters: {error}") from error


def _config(entry: dict[str, Any]) -> Config:
    name = entry["variant"]
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is unknown; known: {', '.join(VARIANTS)}")
    return VARIANTS[name].config.from_dict(entry["options"])


def _entry(layer: dict[str, Any]) -> Entry:
    base, options = layer["base"], layer["options"]
    if not isinstance(base, str) or not (options is None or isinstance(options, dict)):
        raise ValueError(f"a layer should have base (a fingerprint) and options (a mapping or null), got {layer!r:.80}")
    return Entry(base, options)


def _difference(asked: Config, resolved: Config) -> dict[str, Any]:
    """The options that a layer has of its own."""
    before = asked.to_dict()
    return {name: value for name, value in resolved.to_dict().items() if value != before[name]}


def _as_stored(file: PathLike, targeted: Sequence[Adapter], stored: Mapping[str, Entry]) -> tuple[list[Adapter], list[Adapter]]:
    """The adapters with their layers' own options, and the layers that were left out; ValueError for options that do not fit."""
    adapters, left_out = [], []
    for adapter in targeted:
        options = stored[adapter.layer.name].options
        if options is None:
            left_out.append(adapter)
            continue
        try:
            config = type(adapter.asked).from_dict(adapter.asked.to_dict() | options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} has unreadable options for {adapter.layer.name} in its list of adapters: {error}") from error
        adapters.append(replace(adapter, config=config))
    return adapters, left_out


def _names(configs: list[Config]) -> str:
    return ", ".join(repr(config) for config in configs)


def _check_base(file: PathLike, adapters: Sequence[Adapter], saved: Mapping[str, Entry], there: Attachment | None) -> None:
    names = {adapter.layer.name for adapter in adapters}
    if names != saved.keys():
        raise ValueError(
            f"{file} belongs to another model: only in the file {some(saved.keys() - names)}, only in the model {some(names - saved.keys())}"
        )
    for adapter in adapters:
        layer = adapter.layer
        if saved[layer.name].base is None:
            continue
        if (now := fingerprint(layer, there.base_weight(layer) if there else layer.weight)) != saved[layer.name].base:
            raise ValueError(
                f"{file} was saved on another base: {layer.name} had fingerprint {saved[layer.name].base!r:.20}, "
                f"this model's {layer.weight.dtype!s} {tuple(layer.weight.shape)} weight has {now!r:.20}"
            )


def _stored(adapter: Adapter) -> Shapes:
    """The names and shapes of what a file holds for an adapter."""
    starts = {f"{name}{START}": shape for name, shape in adapter.shapes.items()} if adapter.variant.residual else {}
    return adapter.shapes | starts


def _fitting(file: PathLike, adapters: Sequence[Adapter], tensors: Mapping[str, Tensor]) -> list[Planned]:
    """The file's tensors sorted by adapter, on its device; ValueError unless exactly the needed ones are there."""
    needed = {full_name(adapter.layer, name): shape for adapter in adapters for name, shape in _stored(adapter).items()}
    if needed.keys() != tensors.keys():
        raise ValueError(
            f"{file} holds other tensors than its config needs: missing {some(needed.keys() - tensors.keys())}, "
            f"extra {some(tensors.keys() - needed.keys())}"
        )
    for name, shape in needed.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype not in ARITHMETIC:
            raise ValueError(
                f"{file}: {name} is {tensors[name].dtype!s} {tuple(tensors[name].shape)}, should be floating-point {shape}"
            )
    for adapter in adapters:
        dtypes = {full_name(adapter.layer, name): str(tensors[full_name(adapter.layer, name)].dtype) for name in adapter.parameters}
        if len(set(dtypes.values())) > 1:
            raise ValueError(f"{file}: the trainables of one layer should share one dtype, they have {dtypes}")

    def values(adapter: Adapter, suffix: str = "") -> dict[str, Tensor]:
        device = adapter.layer.weight.device
        return {name: tensors[full_name(adapter.layer, name + suffix)].to(device) for name in adapter.shapes}

    return [Planned(a, values(a), values(a, START) if a.variant.residual else {}) for a in adapters]


def some(names: Iterable[str]) -> str:
    """A few names, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") if listed else "none"
