"""Attach what peft's `save_pretrained`, or `lite.export_peft`, wrote. Nothing in a folder is run."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lite import files, stored
from lite.adapter import Adapter
from lite.config import Config
from lite.files import PathLike
from lite.layers import Layer, linear_layers
from lite.peft_export import ends, exact, refuse_shared
from lite.peft_form import BASE, CONFIG, NOTE, NOTED_CONFIG, OFF, TENSORS, PeftForm, brought, name_of
from lite.runtime import attached, full_name, uncompiled
from lite.stored import START, Entry, Groups, some
from lite.variant import VARIANTS, Variant, variant_of

# Of any method: they say where a folder comes from, or where an adapter sits, which the tensors' names say, too.
ABOUT = frozenset({
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "init_weights",
})  # fmt: skip

Tensors = dict[str, Tensor]


def load_peft(model: nn.Module, folder: PathLike) -> nn.Module:
    """Attach what peft's `save_pretrained` or `lite.export_peft` wrote; on a model with the very same attached, replace the values.

    The tensors keep the dtype that they were saved with. PiSSA's and OLoRA's weight is taken apart again, as peft does it. A folder of
    `export_peft` comes back as what was exported, on the same base only; one of peft's says nothing about its base.
    Returns the model.

    Raises FileNotFoundError without the two files, ValueError for one that is damaged, of a method or with an option that lite does
    not have, with tensors that do not fit, or on another base; RuntimeError if something else is attached. The model is then as it was.
    """
    file = Path(folder) / TENSORS
    if not file.is_file() and (file.with_name("adapter_model.bin")).is_file():
        raise ValueError(f"{folder} holds adapter_model.bin, a pickle, which may run code; let peft save it again as {TENSORS}")
    text, fields = _fields(Path(folder) / CONFIG)
    metadata, tensors = files.read_tensors(file)
    layers = {layer.name: layer for layer in linear_layers(uncompiled(model))}
    noted = bool(metadata.keys() & {NOTE, NOTED_CONFIG, files.DIGEST})  # one flipped bit hides one of them
    try:
        refuse_shared(uncompiled(model), [layer for layer in layers.values() if any(f".{layer.name}." in key for key in tensors)])
        if noted and NOTE not in metadata:
            files.check_digest(file, metadata, tensors)
        if noted:
            groups = stored.groups(file, metadata[NOTE])
            ours = _as_noted(groups, layers, tensors)
        else:
            groups, ours = _as_told(model, fields, layers, tensors)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, re.error) as error:  # whatever nonsense may cause
        raise ValueError(f"{folder} is damaged, it cannot be read: {type(error).__name__}: {error!s:.200}") from error
    ready = stored.prepared(model, file, groups, ours)
    if noted:
        files.check_digest(file, metadata, tensors)
        if metadata.get(NOTED_CONFIG) != hashlib.sha256(text).hexdigest():
            raise ValueError(f"{folder}: {CONFIG} is not the one that was exported with {TENSORS}; export it again")
    stored.put(model, ready)
    return model


def _fields(file: Path) -> tuple[bytes, dict[str, Any]]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    text = file.read_bytes()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("peft_type"), str):
        raise ValueError(f"{file} should be a mapping with a peft_type, it is {text[:80]!r}")
    return text, fields


def _as_noted(groups: Groups, layers: Mapping[str, Layer], tensors: Tensors) -> Tensors:
    """The tensors of a folder of ours under our names."""
    split, numbered = _by_layer(layers, tensors), _numbered(tensors)
    found: Tensors = {}
    number = 0
    entries = {name: (config, entry) for config, own in groups for name, entry in own.items() if entry.options is not None}
    for name, layer in layers.items():
        if name in entries:
            config, entry = entries[name]
            own = split.pop(name, {}) | numbered.pop(str(number), {})
            found |= _ours(_adapter(config, layer, entry), own, noted=True)
            number += 1
    _check_all_taken(split, numbered)
    return found


def _as_told(model: nn.Module, fields: Mapping[str, Any], layers: Mapping[str, Layer], tensors: Tensors) -> tuple[Groups, Tensors]:
    """A folder of peft's: configs from its fields, and the tensors under our names."""
    variants = _variants(fields)
    split, numbered = _by_layer(layers, tensors), _numbered(tensors)
    found: Tensors = {}
    chosen: dict[str, tuple[Variant, dict[str, Any]]] = {}
    for number, name in enumerate(list(split)):
        own = split.pop(name) | numbered.pop(str(number), {})
        chosen[name], values = _chosen(variants, fields, layers[name], own)
        found |= values
    _check_all_taken(split, numbered)
    if not chosen:
        raise ValueError(f"no tensor belongs to a layer of this model; there are {some(tensors)}; its layers are {some(layers)}")
    groups: Groups = []
    for variant in variants:
        if options := {name: own for name, (other, own) in chosen.items() if other is variant}:
            groups.append(_group(model, variant, fields, options))
    if attached(model) and any(variant.residual for variant, _ in chosen.values()):
        raise ValueError(
            "what was taken out of the weight is not in the folder, and this model's is taken out already; call lite.detach first"
        )
    return groups, found


def _variants(fields: Mapping[str, Any]) -> list[Variant]:
    """The methods that these fields may be; ValueError that names what lite does not have."""
    forms = {variant.name: variant.peft_form for variant in VARIANTS.values() if variant.peft_form}
    of_type = {name: form for name, form in forms.items() if form.type == fields["peft_type"]}
    if not of_type:
        raise ValueError(
            f"peft_type {fields['peft_type']!r} is none of {', '.join(sorted({form.type for form in forms.values()}))}"
        )
    told = {name: form for name, form in of_type.items() if form.tells(fields)}
    if not told:
        names = sorted({name for form in of_type.values() for name in form.told_by})
        there = ", ".join(f"{name}={fields[name]!r}" for name in names if name in fields)
        raise ValueError(
            f"{fields['peft_type']} with {there} cannot be read: lite has no such method, or its start is not in the folder"
        )
    known = set.union(*(form.known for form in told.values())) | ABOUT
    if strange := {name: value for name, value in fields.items() if name not in known and value not in OFF}:
        said = ", ".join(f"{name}={value!r:.60}" for name, value in sorted(strange.items()))
        raise ValueError(f"{', '.join(told)} of lite has nothing for {said}")
    return [VARIANTS[name] for name in told]


def _chosen(
    variants: Sequence[Variant], fields: Mapping[str, Any], layer: Layer, own: Tensors
) -> tuple[tuple[Variant, dict[str, Any]], Tensors]:
    """The first method whose tensors these are, with its options on this layer, and the tensors; ValueError if there is none."""
    problems = []
    for variant in variants:
        form = _form(variant)
        options = form.read(_of_layer(form, fields, layer.name))
        try:
            if form.from_peft and variant.residual is None:
                options |= form.from_peft(own)[1]
            config = variant.config(**options)
            return (variant, options), _ours(Adapter(variant, config, layer, config), own, noted=False)
        except (ValueError, TypeError) as error:
            problems.append(f"{layer.name} is no {variant.name}: {error}")
    raise ValueError("; ".join(problems))


def _of_layer(form: PeftForm, fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields as they are for one layer."""
    own = dict(fields)
    for field, pattern in form.per_layer.items():
        for key, value in (fields.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", name):  # as peft matches them, the first that fits
                own[field] = value
                break
    return own


def _ours(adapter: Adapter, own: Tensors, *, noted: bool) -> Tensors:
    """A layer's tensors under our full names. noted: in the form of `export_peft`, else as peft writes the method."""
    variant, form = adapter.variant, _form(adapter.variant)
    if form.from_peft and (noted or variant.residual is None):
        values = dict(form.from_peft(own)[0])
    else:
        needed = {name: spec for name, spec in variant.peft.items() if name in adapter.shapes}
        names = {name_of(spec) for spec in needed.values()}
        if names != own.keys():
            raise ValueError(f"missing {some(names - own.keys())}, extra {some(own.keys() - names)}")
        values = {name: brought(spec, own[name_of(spec)], adapter.shapes[name]) for name, spec in needed.items()}
        if variant.residual:
            values |= {f"{name}{START}": value for name, value in adapter.initial().items()}
    return {full_name(adapter.layer, name): value for name, value in values.items()}


def _group(
    model: nn.Module, variant: Variant, fields: Mapping[str, Any], options: Mapping[str, dict[str, Any]]
) -> tuple[Config, dict[str, Entry]]:
    """One config for these layers, and what each has of its own."""
    usual = next(iter(options.values())) | _form(variant).read(fields)
    targets = exact(model, list(options), ends)
    patterns = (f"^({targets})$",) if isinstance(targets, str) else tuple(rf"(^|\.){re.escape(entry)}$" for entry in targets)
    config = variant.config(**usual, target_names=patterns, exclude_names=())
    differing = {name: {key: value for key, value in own.items() if value != usual[key]} for name, own in options.items()}
    return config, {name: Entry(None, own) for name, own in differing.items()}


def _adapter(config: Config, layer: Layer, entry: Entry) -> Adapter:
    own = type(config).from_dict(config.to_dict() | (entry.options or {}))
    return Adapter(variant_of(config), config, layer, own)


def _form(variant: Variant) -> PeftForm:
    if variant.peft_form is None:
        raise ValueError(f"peft has no {variant.name}")
    return variant.peft_form


def _by_layer(layers: Mapping[str, Layer], tensors: Tensors) -> dict[str, Tensors]:
    """Layer's name, in the model's order → the rest of the name → tensor; ValueError for a tensor of no layer."""
    found: dict[str, Tensors] = {}
    strange = []
    for key, value in tensors.items():
        parts = key.removeprefix(f"{BASE}model.").split(".")
        names = [".".join(parts[:cut]) for cut in range(len(parts) - 1, 0, -1)]
        name = next((name for name in names if name in layers), None)
        if name is not None and key.startswith(f"{BASE}model."):
            found.setdefault(name, {})[".".join(parts).removeprefix(f"{name}.")] = value
        elif not _is_numbered(key):
            strange.append(key)
    if strange:
        raise ValueError(f"{some(strange)} belong to no linear layer of this model; its layers are {some(layers)}")
    return {name: found[name] for name in layers if name in found}


def _is_numbered(key: str) -> bool:
    head, _, number = key.removeprefix(BASE).rpartition(".")
    return number.isdecimal() and head in {v.peft_form.numbered for v in VARIANTS.values() if v.peft_form}


def _numbered(tensors: Tensors) -> dict[str, Tensors]:
    """A layer's number → tensors that stand beside the layers."""
    found: dict[str, Tensors] = {}
    for key, value in tensors.items():
        if _is_numbered(key):
            name, _, number = key.removeprefix(BASE).rpartition(".")
            found.setdefault(number, {})[name] = value
    return found


def _check_all_taken(split: Mapping[str, Tensors], numbered: Mapping[str, Tensors]) -> None:
    left = [*split, *(f"{name}.{number}" for number, own in numbered.items() for name in own)]
    if left:
        raise ValueError(f"nothing says what to do with the tensors of {some(left)}")
