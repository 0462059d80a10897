"""The check "merge": the merged model computes what the adapted one did, with the weights that peft merges; and it says so afterwards."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import lite
from conformance import policy
from conformance.whole import alone, sides
from conformance.whole.cell import Record
from conformance.whole.model import pair
from refs.models import Model
from refs.wide import Wide

CHECK = "merge"


def measured(model: Model, record: Record) -> None:
    """One cell."""
    if reason := model.missing():
        return record.untested("run", reason)
    theirs: nn.Module | None = None
    if sides.reference_of(record.variant) is None or sides.refusal(record.variant, model):
        side = alone.alone(record.variant, model)
    else:
        both = pair(record.variant, model)
        side, theirs = both.lite, both.peft.module
    module, names = side.module, sorted(model.fresh(torch.float32).state_dict())
    layers = [adapter.layer.name for adapter in sides.attachment(module).adapters]
    with Wide():
        plain, before, kappa = alone.outputs(model, model.fresh()), alone.outputs(model, module), alone.sensitivity(model, side)
    single = copy.deepcopy(module).float()
    lite.merge(module)
    with Wide():
        after = alone.outputs(model, module)
    if alone.farthest(before, plain) < sides.EFFECT / 4:
        record.untested("output", "the adapter hardly moves the output")
    n = alone.longest(model, module)
    for name, value in before.items():
        record.judge("output", name, policy.same_function(after[name], value, n=n, kappa=kappa[name]))
    _single(record, model, single, before, kappa)
    record.expect("afterwards", "tensors", sorted(module.state_dict()), names)
    for what, again in (("merging again", lite.merge), ("detaching", lite.detach)):
        record.expect("afterwards", what, _refusal(again, module), "refused: merged")
    _weights(record, module, theirs, layers, n)
    return None


def _single(record: Record, model: Model, module: nn.Module, truth: alone.Outputs, kappa: dict[str, float]) -> None:
    """In float32, where a merged weight is rounded: no less accurate than the adapters are."""
    before = alone.outputs(model, module)
    after = alone.outputs(model, lite.merge(module))
    for name, value in before.items():
        record.judge("float32", name, policy.no_less_accurate(after[name], value, truth[name], kappa=kappa[name]))


def _refusal(action: Callable[[nn.Module], Any], module: nn.Module) -> str:
    try:
        action(module)
    except RuntimeError as error:
        return "refused: merged" if "merged" in str(error) else f"refused: {error}"
    return "no error"


def _weights(record: Record, module: nn.Module, theirs: Any, layers: list[str], n: int) -> None:
    """peft's merged weights, where it has the method and merges it."""
    if theirs is None:
        return record.not_applicable("weights", "peft has no such method, or not on these layers")
    try:
        merged = theirs.merge_and_unload()
    except (ValueError, NotImplementedError) as error:
        return record.not_applicable("weights", f"peft does not merge it: {error}")
    for layer in layers:
        for name, value in merged.get_submodule(layer).named_parameters():
            got = module.get_submodule(layer).get_parameter(name)
            record.judge("weights", f"{layer}.{name}", policy.same_function(got.detach(), value.detach(), n=n, kappa=1.0))
    return None
