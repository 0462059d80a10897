"""How peft stores a method: options in the words of its `adapter_config.json`, tensors under the names of its checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model."  # of every name in a checkpoint of peft's; names of the model's own begin with `base_model.model.`
NOTE, NOTED_CONFIG = "lite", "adapter_config_sha256"  # what `export_peft` leaves in the tensors' metadata, where peft does not look
OFF: tuple[Any, ...] = (None, False, 0, "", "none", [], {})  # values of an option that is not used

Word = str | tuple[str, Mapping[Any, Any]]  # peft's field, or (field, {our value: peft's value})
Values = Mapping[str, Tensor]


def nothing(config: Any) -> dict[str, Any]:
    """For methods whose options say everything."""
    return {}


def able(config: Any) -> str | None:
    """For methods that peft has under all options."""
    return None


@dataclass(frozen=True, kw_only=True)
class PeftForm:
    """One method in peft's words.

    type: its `peft_type`. options: our option → peft's field. start: the same, for options that only a start has: read, never written;
        a dotted field stands in a mapping of its own.
    told_by: field → peft's values: a folder holds this method if each field has one of them; a missing one counts as the first.
    written: (config) → fields that switch the method on, or follow from options.
    inert: fields of peft's that change nothing here. per_layer: field → the field that holds other values for single layers.
    lists: the field that names, once more, the layers that get this method, where the type has several.
    conv1d: whether peft adapts Conv1D, too. unable: (config) → why peft cannot do this, or None.
    to_peft, from_peft: tensors in peft's form and back, where a map of names, transposes and shapes is not enough. to_peft gets the
        config; from_peft gives options, too. Tensors of a start end in `.start`.
    numbered: a tensor that stands beside the layers, under the layer's number.
    """

    type: str
    options: Mapping[str, Word]
    start: Mapping[str, Word] = field(default_factory=dict)
    told_by: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    written: Callable[[Any], Mapping[str, Any]] = nothing
    inert: frozenset[str] = frozenset()
    per_layer: Mapping[str, str] = field(default_factory=dict)
    lists: str | None = None
    conv1d: bool = False
    unable: Callable[[Any], str | None] = able
    to_peft: Callable[[Any, Values], Values] | None = None
    from_peft: Callable[[Values], tuple[Values, Mapping[str, Any]]] | None = None
    numbered: str | None = None

    @property
    def known(self) -> set[str]:
        """The fields of peft's that mean something here, or nothing at all."""
        words = {_field(word).partition(".")[0] for word in (*self.options.values(), *self.start.values())}
        return words | {*self.told_by, *self.per_layer.values(), *self.inert, *([self.lists] if self.lists else [])}

    def fields(self, config: Any) -> dict[str, Any]:
        """A config in peft's words."""
        said = {}
        for option, word in self.options.items():
            value = getattr(config, option)
            said[_field(word)] = value if isinstance(word, str) else word[1][value]
        return said | dict(self.written(config))

    def tells(self, fields: Mapping[str, Any]) -> bool:
        """Whether these fields are this method's."""
        return all(fields.get(name, (*values, None)[0]) in values for name, values in self.told_by.items())

    def read(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Our options from peft's fields, as far as they are there; ValueError for a value that has no counterpart."""
        found: dict[str, Any] = {}
        for option, word in {**self.options, **self.start}.items():
            name = _field(word)
            head, _, rest = name.partition(".")
            there = fields if not rest else fields.get(head) or {}
            if (rest or head) not in there:
                continue
            value = there[rest or head]
            if isinstance(word, str):
                found[option] = value
            elif ours := [key for key, theirs in word[1].items() if theirs == value]:
                found[option] = ours[0]
            elif option in self.options:
                raise ValueError(f"{name} is {value!r}, should be one of {', '.join(map(repr, word[1].values()))}")
        return found


def _field(word: Word) -> str:
    return word if isinstance(word, str) else word[0]


def name_of(spec: Any) -> str:
    """What peft calls a tensor. spec: its entry in a variant's map, a name or {name, transpose, shape}."""
    name: str = spec if isinstance(spec, str) else spec["name"]
    return name


def carried(spec: Any, value: Tensor) -> Tensor:
    """A tensor in peft's orientation."""
    if isinstance(spec, str):
        return value
    turned = value.T if spec.get("transpose") else value
    return turned.reshape(spec["shape"]) if "shape" in spec else turned


def brought(spec: Any, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The way back: peft's tensor in our shape; ValueError if it has another than `carried` gives."""
    there = tuple(carried(spec, torch.empty(shape, device="meta")).shape)
    if tuple(value.shape) != there:
        raise ValueError(f"{name_of(spec)} is {tuple(value.shape)}, should be {there}")
    turned = not isinstance(spec, str) and bool(spec.get("transpose"))
    value = value.reshape(shape[::-1] if turned else shape)
    return (value.T if turned else value).contiguous()
