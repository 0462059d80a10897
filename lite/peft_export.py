"""Write what is attached as a folder that peft loads: `adapter_config.json` and `adapter_model.safetensors`."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lite import files, stored
from lite.adapter import Adapter
from lite.files import PathLike
from lite.layers import Layer, all_names, linear_layers
from lite.peft_form import BASE, CONFIG, NOTE, NOTED_CONFIG, OFF, TENSORS, PeftForm, carried, name_of
from lite.runtime import attached, full_name
from lite.stored import START


def export_peft(model: nn.Module, folder: PathLike) -> None:
    """Write all adapters to a folder for peft's `PeftModel.from_pretrained(base, folder)`; the same function there, up to roundings.

    What takes a part out of the weight (PiSSA, OLoRA, CorDA, ASVD) is written as a plain LoRA of twice the rank beside the whole weight, in
    train mode with dropout on the input of both parts; EVA as a LoRA with a rank per layer; LoRA-XS as a TinyLoRA with one-hot projections.
    `lite.load_peft` gives each back as it was, bit for bit: the tensors' metadata says what they are. Starts are not written.

    Raises RuntimeError if nothing is attached or a replaced weight is not what its start left, ValueError for what peft does not have: the
    method, an option, a kind of layer, two methods in one folder; OSError if a file cannot be written.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError(f"nothing is attached to this model, so there is nothing to export to {folder}; call lite.attach first")
    model = attachment.model
    refuse_shared(model, [adapter.layer for adapter in attachment.adapters])
    order = {layer.name: place for place, layer in enumerate(linear_layers(model))}
    adapters = sorted(attachment.adapters, key=lambda adapter: order[adapter.layer.name])
    forms = {adapter.layer.name: _form(adapter) for adapter in adapters}
    if len(types := {form.type for form in forms.values()}) > 1:
        raise ValueError(f"a folder of peft's holds one method, this model has {', '.join(sorted(types))}; export them one by one")
    held = stored.held(attachment)
    tensors: dict[str, Tensor] = {}
    for number, adapter in enumerate(adapters):
        tensors |= _tensors(adapter, forms[adapter.layer.name], held, number)
    config = json.dumps(_config(model, adapters, forms), indent=2, sort_keys=True)
    metadata = {"format": "pt", NOTE: stored.described(attachment), NOTED_CONFIG: hashlib.sha256(config.encode()).hexdigest()}
    contents = {Path(folder) / TENSORS: files.content(tensors, metadata), Path(folder) / CONFIG: config.encode()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    files.replace(contents)


def _form(adapter: Adapter) -> PeftForm:
    """A layer in peft's words; ValueError that says what peft does not have."""
    form, layer = adapter.variant.peft_form, adapter.layer
    if form is None:
        raise ValueError(f"{adapter.where}: peft has no such method; lite.save keeps it, lite.merge puts it into the weight")
    if not layer.name:
        raise ValueError(f"{adapter.where}: peft adapts layers inside of a model, not the model itself")
    if not isinstance(layer.module, nn.Linear) and not (layer.transposed and form.conv1d):
        raise ValueError(f"{adapter.where}: peft does not adapt a {type(layer.module).__name__} with this method")
    if reason := form.unable(adapter.config):
        raise ValueError(f"{adapter.where}: peft {reason}, here {adapter.config!r}")
    return form


def _tensors(adapter: Adapter, form: PeftForm, held: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """An adapter's tensors under the names of peft's checkpoint."""
    names = [*adapter.shapes, *(f"{name}{START}" for name in adapter.shapes)]
    own = {name: held[key] for name in names if (key := full_name(adapter.layer, name)) in held}
    if form.to_peft:
        foreign = form.to_peft(adapter.config, own)
    else:
        foreign = {name_of(spec): carried(spec, own[name]) for name, spec in adapter.variant.peft.items() if name in own}
    return {
        f"{BASE}{name}.{number}" if name == form.numbered else f"{BASE}model.{adapter.layer.name}.{name}": value
        for name, value in foreign.items()
    }


def _config(model: nn.Module, adapters: Sequence[Adapter], forms: Mapping[str, PeftForm]) -> dict[str, Any]:
    """`adapter_config.json`."""
    form = next(iter(forms.values()))
    names = list(forms)
    listed = {form.lists for form in forms.values() if form.lists}
    selected = {field: [name for name in names if forms[name].lists == field] for field in listed} | {"target_modules": names}
    ways = {field: str.endswith if field in listed else ends for field in selected}
    chosen = {field: exact(model, own, ways[field]) for field, own in selected.items()}
    targets = chosen["target_modules"]
    # peft wants a part of the targets, and compares lists with lists
    if any(isinstance(entries, str) or not {*entries} <= {*targets} for entries in chosen.values()):
        chosen = {field: expression(own) for field, own in selected.items()}
    said = _agreed({a.layer.name: forms[a.layer.name].fields(a.config) for a in adapters}, form.per_layer) | chosen
    if form.conv1d and all(adapter.layer.transposed for adapter in adapters):
        said["fan_in_fan_out"] = True  # otherwise peft finds out, and warns
    base = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    return said | {
        "peft_type": form.type,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "task_type": None,
    }


def _agreed(fields: Mapping[str, Mapping[str, Any]], per_layer: Mapping[str, str]) -> dict[str, Any]:
    """The fields that all layers share, and patterns for those that differ; ValueError where peft has no pattern.

    fields: layer's name → field → value.
    """
    said: dict[str, Any] = {}
    for field in dict.fromkeys(name for own in fields.values() for name in own):
        values = {layer: own.get(field) for layer, own in fields.items()}
        usual = max(values.values(), key=list(values.values()).count)
        others = {layer: value for layer, value in values.items() if value != usual and not (value in OFF and usual in OFF)}
        said[field] = usual
        if others and field not in per_layer:
            (layer, value), same = next(iter(others.items())), next(name for name in values if values[name] == usual)
            raise ValueError(f"peft has one {field} for all layers: {layer} has {value!r}, {same} has {usual!r}")
        if others:  # from the beginning: a name may end in another
            said[per_layer[field]] = {f"^{re.escape(name)}": value for name, value in others.items()}
    return said


def exact(model: nn.Module, names: Sequence[str], selects: Callable[[str, str], bool]) -> list[str] | str:
    """What selects these modules of the model and no others: last parts of names, whole names, or a regular expression.

    selects: (module's name, entry) → whether an entry of a list selects a module.
    """
    there = [name for name, _ in model.named_modules()]
    for entries in (sorted({name.rpartition(".")[2] for name in names}), sorted(names)):
        if [name for name in there if any(selects(name, entry) for entry in entries)] == [name for name in there if name in names]:
            return entries
    return expression(names)


def expression(names: Sequence[str]) -> str:
    """A regular expression for these names alone."""
    return "|".join(map(re.escape, names))


def ends(name: str, entry: str) -> bool:
    """Whether an entry of a list selects a module, as peft has it."""
    return name == entry or name.endswith(f".{entry}")


def refuse_shared(model: nn.Module, layers: Sequence[Layer]) -> None:
    """ValueError for a module that the model has under several names: lite adapts it wherever it is called, peft under the first only."""
    names = all_names(model)
    for layer in layers:
        if len(names[layer.module]) > 1:
            raise ValueError(
                f"{layer.name} is one module under several names ({', '.join(names[layer.module])}): peft adapts it under one of them only"
            )
