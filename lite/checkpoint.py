"""Save and load: one self-contained safetensors file with the configs, all adapter tensors and a fingerprint of the base.

The file holds no d_out × d_in tensor and needs no calibration data. Its header's metadata is `format`, `version` and `adapters`: a JSON
list of {variant, options, layers}, where layers gives each layer's name {base: fingerprint, options: what differs for it}; options
is null for a layer that was left out. Methods that took a part out of the weight store what they took as `LAYER.NAME.start`.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lite.adapter import Adapter
from lite.config import Config
from lite.layers import Layer
from lite.runtime import Attachment, Planned, attached, commit, full_name, plan, replace_weight
from lite.variant import VARIANTS, Shapes, variant_of

FORMAT, VERSION = "lite-adapter", "1"
START = ".start"  # ends the name of a tensor as it was when its residual was formed


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of a layer: its base's fingerprint and the options of its own, None if it was left out."""

    base: str
    options: dict[str, Any] | None


def save(model: nn.Module, file: str | os.PathLike[str]) -> None:
    """Write all adapters of the model to `file`. An old file is replaced only by a complete new one.

    A model that was cast after `attach` comes back with residuals formed anew from the cast base: the trainables are bit for bit the
    same, a residual is off by a rounding of the coarser dtype.

    Raises RuntimeError if nothing is attached or a replaced weight is not what its start left, OSError if the file cannot be written.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError(f"nothing is attached to this model, so there is nothing to save to {file}; call lite.attach first")
    for adapter in attachment.adapters:
        _check_residual(attachment, adapter)
    tensors = {
        full_name(adapter.layer, name): value.detach().cpu().contiguous()
        for adapter in attachment.adapters
        for name, value in _values(attachment, adapter).items()
    }
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
    metadata = {"format": FORMAT, "version": VERSION, "adapters": json.dumps(groups)}
    aside = Path(f"{os.fspath(file)}.{os.getpid()}.tmp")
    try:
        save_file(tensors, aside, metadata)
        aside.replace(file)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


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


def load(model: nn.Module, file: str | os.PathLike[str]) -> nn.Module:
    """Attach what `save` wrote; on a model with the very same configs attached, replace the values. Returns the model.

    Raises FileNotFoundError, or ValueError for a file that is damaged, of another format, version, variant or base, or
    whose tensors do not fit; RuntimeError if something else is attached. The model is then as it was.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no adapter file {file}")
    metadata, tensors = _read(file)
    groups = _groups(file, metadata)
    configs = [config for config, _ in groups]
    there = attached(model)
    if there is not None and there.configs != configs:
        raise RuntimeError(
            f"the model has {_names(there.configs)} attached, {file} holds {_names(configs)}; call lite.detach first"
        )
    stored = {name: entry for _, layers in groups for name, entry in layers.items()}
    targeted = [*there.adapters, *there.left_out] if there else plan(model, configs)
    _check_base(file, targeted, stored, there)
    adapters, left_out = _as_stored(file, targeted, stored)
    if there is not None and adapters != there.adapters:
        raise RuntimeError(f"{file} shares out its ranks in another way than what is attached; call lite.detach first")
    planned = _fitting(file, adapters, tensors)
    if there is None:
        commit(model, configs, planned, left_out)
    else:
        _replace(there, planned)
    return model


def _replace(there: Attachment, planned: list[Planned]) -> None:
    """Put a file's values into what is attached already."""
    residuals = [p.adapter.residual(there.base_weight(p.adapter.layer), p.start) for p in planned]
    for p, residual in zip(planned, residuals, strict=True):
        for name, live in p.adapter.live().items():
            live.data = p.tensors[name]  # not copy_: the file's dtype wins, as on a fresh model
        if residual is not None:
            replace_weight(there, p, residual)


def fingerprint(layer: Layer, weight: Tensor) -> str:
    """SHA-256 over a layer's base weight (d_out, d_in) and bias: dtype, shape and bits."""
    digest = hashlib.sha256()
    for tensor in (weight, layer.bias):
        if tensor is not None:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            # Clones: the file may be replaced while its memory map is alive.
            return handle.metadata() or {}, {key: handle.get_tensor(key).clone() for key in handle.keys()}
    except SafetensorError as error:
        raise ValueError(f"{file} is no complete safetensors file: {error}") from error


def _groups(file: str | os.PathLike[str], metadata: Mapping[str, str]) -> list[tuple[Config, dict[str, Entry]]]:
    """The configs of a file, each with its layers."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{file} has format {metadata.get('format')!r}, should be {FORMAT!r}: not written by lite.save")
    if metadata.get("version") != VERSION:
        raise ValueError(f"{file} has format version {metadata.get('version')!r}, this release reads {VERSION!r}")
    try:
        return [
            (_config(entry), {name: _entry(layer) for name, layer in entry["layers"].items()})
            for entry in json.loads(metadata["adapters"])
        ]
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


def _as_stored(
    file: str | os.PathLike[str], targeted: Sequence[Adapter], stored: Mapping[str, Entry]
) -> tuple[list[Adapter], list[Adapter]]:
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


def _check_base(
    file: str | os.PathLike[str], adapters: Sequence[Adapter], saved: Mapping[str, Entry], there: Attachment | None
) -> None:
    names = {adapter.layer.name for adapter in adapters}
    if names != saved.keys():
        raise ValueError(
            f"{file} belongs to another model: only in the file {_some(saved.keys() - names)}, only in the model {_some(names - saved.keys())}"
        )
    for adapter in adapters:
        layer = adapter.layer
        if (now := fingerprint(layer, there.base_weight(layer) if there else layer.weight)) != saved[layer.name].base:
            raise ValueError(
                f"{file} was saved on another base: {layer.name} had fingerprint {saved[layer.name].base!r:.20}, "
                f"this model's {layer.weight.dtype!s} {tuple(layer.weight.shape)} weight has {now!r:.20}"
            )


def _stored(adapter: Adapter) -> Shapes:
    """The names and shapes of what a file holds for an adapter."""
    starts = {f"{name}{START}": shape for name, shape in adapter.shapes.items()} if adapter.variant.residual else {}
    return adapter.shapes | starts


def _fitting(file: str | os.PathLike[str], adapters: Sequence[Adapter], tensors: Mapping[str, Tensor]) -> list[Planned]:
    """The file's tensors sorted by adapter, on its device; ValueError unless exactly the needed ones are there."""
    needed = {full_name(adapter.layer, name): shape for adapter in adapters for name, shape in _stored(adapter).items()}
    if needed.keys() != tensors.keys():
        raise ValueError(
            f"{file} holds other tensors than its config needs: missing {_some(needed.keys() - tensors.keys())}, "
            f"extra {_some(tensors.keys() - needed.keys())}"
        )
    for name, shape in needed.items():
        if tuple(tensors[name].shape) != shape or not tensors[name].is_floating_point():
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


def _some(names: set[str]) -> str:
    """A few names, for a message."""
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") if listed else "none"
