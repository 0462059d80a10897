"""The check "interop": what lite writes and peft loads, what peft writes and lite loads; the same function there, the same bits back."""

import json
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

import lite
from conformance import policy
from conformance.trial import scratch
from conformance.whole import alone, sides
from conformance.whole.cell import Record
from conformance.whole.model import LEAST, MOST, Pair, pair
from conformance.whole.sides import Side
from lite.peft_form import CONFIG, TENSORS
from refs.models import Model
from refs.wide import Wide

CHECK = "interop"
OUT, BACK, IN, AGAIN = "lite → peft", "lite → peft → lite", "peft → lite", "peft → lite → peft"  # the directions
WAYS = (OUT, BACK, IN, AGAIN)
# Starts that peft makes from the weight alone, and what its config calls them: their folders hold A and B, and whoever loads them takes
# the weight apart again. They are made in float32, which is all that peft takes.
OWN_STARTS = {"pissa": "pissa", "olora": "olora"}
# Starts whose folders are LoRA's but for this word.
WORDS = {"eva": "eva", "corda": "corda"}
LOST = {"corda"}  # what was taken out of the weight is not in peft's folder, and peft itself cannot load it
DEPRECATED = "is_gradient_checkpointing"  # transformers' word about peft's own call, whatever is loaded


def measured(model: Model, record: Record) -> None:
    """One cell."""
    if reason := model.missing():
        return record.untested("run", reason)
    if sides.reference_of(record.variant) is None or sides.refusal(record.variant, model):
        return _refused(model, record)
    both = pair(record.variant, model)
    if not LEAST <= both.effect <= MOST:
        return record.untested("run", f"the adapter moves the output by {both.effect:.1g} of its norm")
    with scratch() as folder:
        _out(record, both, Path(folder) / "lite")
        if record.variant in OWN_STARTS:
            _own_start(record, both, Path(folder))
        else:
            _in(record, both, Path(folder))
    return None


def _refused(model: Model, record: Record) -> None:
    """A method or a layer that peft does not have: `export_peft` has to say so, or write what peft can load all the same."""
    side = alone.alone(record.variant, model)
    for way in (IN, AGAIN):
        record.not_applicable(way, "peft writes no such folder")
    with scratch() as folder:
        try:
            lite.export_peft(side.module, folder)
        except ValueError as error:
            for way in (OUT, BACK):
                record.not_applicable(way, f"refused: {_reason(error)}")
            if left := sorted(path.name for path in Path(folder).iterdir()):
                record.expect(OUT, "files of a refused export", left, [])
            return
        _same_there(record, model, side, Path(folder), partial(alone.sensitivity, model, side))
        _bits_back(record, model, side, Path(folder))


def _out(record: Record, both: Pair, folder: Path) -> None:
    kappa = _kappa(both)
    lite.export_peft(both.lite.module, folder)
    _same_there(record, both.model, both.lite, folder, kappa)
    _bits_back(record, both.model, both.lite, folder)


def _same_there(record: Record, model: Model, side: Side, folder: Path, kappa: Callable[[], Mapping[str, float]]) -> None:
    """What peft makes of a folder of ours: no warning, the same outputs."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(model.fresh(torch.float64), str(folder), autocast_adapter_dtype=False)
    heard = [str(warning.message) for warning in said if DEPRECATED not in str(warning.message)]
    record.expect(OUT, "warnings", "; ".join(heard) or "none", "none")
    _same_outputs(record, OUT, model, loaded, side.module, kappa)


def _bits_back(record: Record, model: Model, side: Side, folder: Path) -> None:
    restored = lite.load_peft(model.fresh(torch.float64), folder)
    now, before = restored.state_dict(), side.module.state_dict()
    record.expect(BACK, "names", sorted(now), sorted(before))
    for name in sorted(now.keys() & before.keys()):
        record.judge(BACK, name, policy.same_bits(now[name], before[name]))


def _in(record: Record, both: Pair, folder: Path) -> None:
    """A folder of peft's `save_pretrained`."""
    theirs, again = folder / "peft", folder / "again"
    _save(both.peft.module, theirs)
    base = both.model.fresh(torch.float64)
    if word := WORDS.get(record.variant):
        _reword(theirs / CONFIG, word)
        for name, weight in _residuals(both).items():
            base.get_submodule(name).weight = weight
    try:
        loaded = lite.load_peft(base, theirs)
    except ValueError as error:
        if record.variant not in LOST:
            raise
        for way in (IN, AGAIN):
            record.not_applicable(way, f"refused: {_reason(error)}")
        return
    _same_outputs(record, IN, both.model, loaded, both.peft.module, _kappa(both))
    _same_numbers(record, sides.lite_side(loaded), both.peft)
    lite.export_peft(loaded, again)
    theirs_held, ours_held = (_tensors(where) for where in (theirs, again))
    record.expect(AGAIN, "names", sorted(ours_held), sorted(theirs_held))
    for name in sorted(ours_held.keys() & theirs_held.keys()):
        record.judge(AGAIN, name, policy.same_bits(ours_held[name], theirs_held[name]))


def _own_start(record: Record, both: Pair, folder: Path) -> None:
    """A folder of a start that peft took out of the weight, in float32; trained as ours is."""
    theirs = folder / "peft"
    model, variant = both.model, record.variant
    plain = sides.reference_of("lora")
    assert plain is not None
    targets = [end for ends in sides.placement(variant, model).values() for end in ends]
    arguments = plain.arguments(sides.asked(variant)) | {"init_lora_weights": OWN_STARTS[variant]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = peft.get_peft_model(model.fresh(torch.float32), plain.config(target_modules=targets, **arguments))
        alone.outputs(model, wrapped)
    except (RuntimeError, ValueError) as error:  # OLoRA of a Conv1D that is not square
        for way in (IN, AGAIN):
            record.not_applicable(way, f"peft fails with what it made: {_first_line(error)}")
        return
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.25)
    wrapped.eval()
    _save(wrapped, theirs)
    loaded = lite.load_peft(model.fresh(torch.float32), theirs)
    got, should = alone.outputs(model, loaded), alone.outputs(model, wrapped)
    kappa = _kappa(both)
    for name, value in should.items():
        judge = partial(policy.same_output, got[name], value, n=alone.longest(model, wrapped))
        record.judge(IN, name, sides.bounded(judge, name, kappa))
    held = _tensors(theirs)
    for name, tensor in sides.lite_side(loaded).tensors.items():
        record.judge(AGAIN, name, policy.same_bits(tensor.detach(), held[f"{sides.PREFIX}{name}.weight"]))


def _same_numbers(record: Record, ours: Side, theirs: Side) -> None:
    record.expect(IN, "trained tensors", sorted(ours.trainable), sorted(theirs.trainable))
    for name in sorted(ours.tensors.keys() & theirs.tensors.keys()):
        record.judge(IN, name, policy.same_bits(ours.read(name), theirs.read(name)))


def _same_outputs(
    record: Record, way: str, model: Model, got: nn.Module, should: nn.Module, kappa: Callable[[], Mapping[str, float]]
) -> None:
    with Wide():
        ours, theirs = alone.outputs(model, got), alone.outputs(model, should)
    n = alone.longest(model, should)
    for name, value in theirs.items():
        judge = partial(policy.same_function, ours[name], value, n=n)
        record.judge(way, name, sides.bounded(judge, name, kappa))


def _kappa(both: Pair) -> Callable[[], dict[str, float]]:
    return cache(partial(alone.sensitivity, both.model, both.peft))


def _residuals(both: Pair) -> dict[str, nn.Parameter]:
    """What is left of the weights: peft's folder is of adapters beside these."""
    held = both.lite.module.state_dict()
    return {name: nn.Parameter(held[f"{name}.weight"].clone()) for name in sides.attachment(both.lite.module).originals}


def _save(module: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.save_pretrained(folder)


def _reword(file: Path, word: str) -> None:
    """As peft names the start in the folders of its own."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": word}))


def _tensors(folder: Path) -> dict[str, Tensor]:
    return lite.files.read_tensors(folder / TENSORS)[1]


def _reason(error: Exception) -> str:
    """Without the layer or the scratch folder it begins with, which is another one in every model."""
    return str(error).partition(": ")[2]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
