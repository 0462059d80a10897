"""A saved adapter: whether it loads, whether it moves the output, and what of it is silently ignored. Nothing in a file is run."""

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import lite
from conformance.model import whole
from conformance.model.checkpoint import Checkpoint, some
from conformance.model.names import abbreviated
from conformance.model.stream import Outputs, outputs
from conformance.model.words import Words
from conformance.trial import path_in, scratch
from conformance.verdict import Measurement, Verdict
from lite.layers import Layer, as_layer
from lite.stored import START
from refs.peft_layer import ADAPTER
from refs.threads import one_thread

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # before a module's own name in peft's files
BY_NAME = ("target_modules", "modules_to_save")  # a module's name, or its end; or one regular expression
BY_PATTERN = ("rank_pattern", "alpha_pattern")  # regular expressions of its end
NAMED, UNKNOWN = "modules that the config names", "keys of the config that peft does not know"
LOADS, MOVES = "loads", "moves the output"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file is looked at with. layers: those that its tensors belong to. rows: what was found."""

    words: Words
    layers: list[Layer]
    before: Outputs
    kappa: Mapping[str, float]
    rows: list[Measurement] = field(default_factory=list)

    def say(self, ok: bool, what: str, got: str, should: str) -> None:
        """Add a fact with both sides."""
        verdict = Verdict.IDENTICAL if ok else Verdict.FAILS
        made = Measurement(
            variant="", candidate="saved adapter", reference="itself", version="", check="saved adapter", verdict=verdict,
            what=what, got=got, should=should,
        )  # fmt: skip
        self.rows.append(made)

    def moves(self, model: nn.Module) -> None:
        """How far the output is from the base's. No farther than roundings in every layer would bring it: the adapter does nothing."""
        with torch.no_grad():
            after = outputs(model, self.words.batch)
        should = "farther than roundings bring it"
        if (got := _shapes(after)) != (base := _shapes(self.before)):
            self.say(False, MOVES, f"the output has another shape: {got} instead of {base}", should)
            return
        if not whole.is_finite(after):
            self.say(False, MOVES, "it is not finite any more", should)
            return
        judged = whole.judged(after, self.before, self.kappa, self.layers).values()
        still = not any(judgement.verdict.is_red for judgement in judged)
        far = f"‖y − y_base‖/‖y_base‖ = {whole.farthest(after, self.before):.2g}"
        self.say(not still, MOVES, f"loaded, but does nothing: {far}" if still else far, should)

    def compare(self, there: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
        """The file's names and values with what sits in the model now."""
        other = [name for name in there.keys() & live.keys() if not _same(there[name], live[name])]
        rows = (
            ("tensors of the file that no module took", there.keys() - live.keys()),
            ("tensors of the adapter that the file lacks", live.keys() - there.keys()),
            ("tensors that came out with other values", other),
        )
        for what, names in rows:
            self.say(not names, what, some(abbreviated(sorted(names))) or "none", "none")


def check_readable(adapter: Path) -> None:
    """OSError or ValueError for a path that holds no adapter, or one in a format that can run code."""
    if _is_peft(adapter):
        _config(adapter)
    _tensors(adapter / TENSORS if adapter.is_dir() else adapter)


def saved(checkpoint: Checkpoint, words: Words, adapter: Path) -> list[Measurement]:
    """Look at one. OSError or ValueError where `check_readable` has one."""
    look = _by_peft if _is_peft(adapter) else _by_lite
    with one_thread():
        return look(checkpoint.model, words, adapter).rows


def _is_peft(adapter: Path) -> bool:
    """Whether it is a folder of peft's, else a file of lite's."""
    if not adapter.exists():
        raise FileNotFoundError(
            f"there is no adapter {adapter}; give lite's .safetensors file, or a folder with {CONFIG} and {TENSORS}"
        )
    if adapter.is_file():
        if adapter.suffix != ".safetensors":
            raise ValueError(f"{adapter} is no .safetensors file; formats that can run code when they are read are refused")
        return False
    if not (adapter / CONFIG).is_file():
        raise FileNotFoundError(f"{adapter} has no {CONFIG}; of an adapter of lite's give the file itself")
    if not (adapter / TENSORS).is_file():
        pickles = sorted(path.name for path in adapter.glob("*.bin"))
        why = f"; {some(pickles)} can run code when it is read, save it as safetensors" if pickles else ""
        raise FileNotFoundError(f"{adapter} has no {TENSORS}{why}")
    return True


def _looked_at(model: nn.Module, words: Words, modules: Iterable[str]) -> Saved:
    """The base model, before anything is loaded."""
    there = dict(model.named_modules())
    layers = [layer for name in sorted(set(modules)) if name in there and (layer := as_layer(name, there[name]))]
    with torch.no_grad():
        before = outputs(model, words.batch)
    return Saved(words, layers, before, whole.roundings(model, words.batch, layers, before))


def _by_lite(model: nn.Module, words: Words, file: Path) -> Saved:
    there = _tensors(file)
    found = _looked_at(model, words, (name.removesuffix(START).rpartition(".")[0] for name in there))
    try:
        lite.load(model, file)
    except (ValueError, RuntimeError) as error:
        found.say(False, LOADS, str(error), "attached by lite.load")
        return found
    found.say(True, LOADS, f"{len(there)} tensors for {some(abbreviated(layer.name for layer in found.layers))}", "")
    found.moves(model)
    with scratch() as folder:
        lite.save(model, path_in(folder))
        found.compare(there, _tensors(path_in(folder)))
    lite.detach(model)
    return found


def _by_peft(model: nn.Module, words: Words, folder: Path) -> Saved:
    config, there = _config(folder), _tensors(folder / TENSORS)
    owners = (name.removeprefix(PREFIX).split(".") for name in there)
    found = _looked_at(model, words, (".".join(parts[:end]) for parts in owners for end in range(1, len(parts))))
    named = _named(config, [name for name, _ in model.named_modules()])
    found.say(not named, NAMED, named or "each is there", "each is there")
    unknown = _unknown(config)
    found.say(not unknown, UNKNOWN, some(unknown) or "none", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they are about is measured here
        _loaded_by_peft(found, model, folder, config, there)
    return found


def _loaded_by_peft(found: Saved, model: nn.Module, folder: Path, config: Mapping[str, Any], there: Mapping[str, Tensor]) -> None:
    try:
        wrapped = peft.PeftModel.from_pretrained(model, str(folder), ADAPTER, local_files_only=True, torch_device="cpu")
    except Exception as error:  # peft, or the layers it makes, may raise anything
        found.say(False, LOADS, f"{type(error).__name__}: {error}", "loaded by peft")
        return
    found.say(True, LOADS, f"{config.get('peft_type')}, {len(there)} tensors", "")
    found.moves(wrapped)
    own, whole_embeddings = (  # told, because "auto" asks the network
        peft.get_peft_model_state_dict(wrapped, adapter_name=ADAPTER, save_embedding_layers=told) for told in (False, True)
    )
    kept = {name: value for name, value in whole_embeddings.items() if name in there}  # of the base's a file may keep some or none
    found.compare(there, own | kept)


def _tensors(file: Path) -> dict[str, Tensor]:
    """Of a safetensors file; ValueError if it is damaged."""
    try:
        with safe_open(file, framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}
    except SafetensorError as error:
        raise ValueError(f"{file} is no complete safetensors file: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} should hold a mapping, it holds a {type(config).__name__}")
    if config.get("megatron_config"):
        raise ValueError(f"{folder / CONFIG} names a module for peft to import (megatron_core); that is refused")
    return config


def _unknown(config: Mapping[str, Any]) -> list[str]:
    """Keys that the config's class lacks: peft warns of them and goes on without. Of a type that peft lacks nothing is said: it won't load."""
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(str(config.get("peft_type")))
    return sorted(config.keys() - {own.name for own in fields(kind)}) if kind else []


def _named(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """What a config names, as peft matches it, and no module is; or the pattern in it that cannot be read; else nothing."""
    told: list[tuple[str, str, str]] = []  # key, what it says, as a regular expression of whole names
    for key in BY_NAME:
        value = config.get(key) or []
        if isinstance(value, str):
            told += [(key, value, value)] if value != "all-linear" else []
        else:
            told += [(key, end, rf"(.*\.)?{re.escape(end)}") for end in value]
    told += [(key, pattern, rf"(.*\.)?({pattern})") for key in BY_PATTERN for pattern in config.get(key) or {}]
    nowhere = []
    for key, said, pattern in told:
        try:
            read = re.compile(pattern)
        except re.error as error:
            return f"{said!r} ({key}) is no regular expression: {error}"
        if not any(map(read.fullmatch, names)):
            nowhere.append(f"{said!r} ({key})")
    return f"no module is {', '.join(nowhere)}" if nowhere else ""


def _shapes(given: Outputs) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items())


def _same(stored: Tensor, live: Tensor) -> bool:
    """The same numbers: libraries may widen what they read."""
    return stored.shape == live.shape and torch.allclose(
        stored.double(), live.detach().cpu().double(), rtol=0, atol=0, equal_nan=True
    )


def rows(measured: Iterable[Measurement]) -> list[tuple[str, ...]]:
    """For a table, the worst first."""
    ordered = sorted(measured, key=lambda m: not m.verdict.is_red)
    return [(m.what, "fails" if m.verdict.is_red else "ok", m.got, m.should if m.verdict.is_red else "") for m in ordered]
