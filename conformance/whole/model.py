"""The check "model": targets, outputs, loss and every gradient of lite beside peft, in both modes; checkpointing; compilation."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from conformance import policy
from conformance.whole import sides
from conformance.whole.cell import Record
from conformance.whole.sides import Side
from refs.models import Model
from refs.wide import Wide

DROPOUT = 0.1
COMPILED = "bert"  # in the default run every variant is compiled here, LoRA everywhere
BLOCKS = 1  # of a model that is compiled, which takes seconds for each
LEAST, MOST = 1e-2, 10.0  # by how much an adapter has to move the output, relative, for the case to see anything

Trace = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Pair:
    """Both sides with the same numbers, away from the start."""

    model: Model
    lite: Side
    peft: Side
    effect: float


def pair(
    variant: str, model: Model, dtype: torch.dtype = torch.float64, *, dropout: float = 0.0, blocks: int | None = None
) -> Pair:
    """lite and peft, moved. dropout: in train mode, of the base and of adapters that have it. blocks: of a shorter model."""
    lite_ = sides.attach(variant, model, model.fresh(dtype, dropout=dropout, blocks=blocks), dropout)
    peft_ = sides.wrap(variant, model, model.fresh(dtype, dropout=dropout, blocks=blocks), lite_, dropout)
    plain = _output(model, model.fresh(dtype, blocks=blocks), model.batch())

    def moves() -> float:
        return policy.distance(_output(model, peft_.module, model.batch()), plain)

    sides.perturb(variant, model, lite_, peft_, moves)
    return Pair(model, lite_, peft_, moves())


@torch.no_grad()
def _output(model: Model, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return list(model.outputs(module, batch).values())[-1]


def trace(model: Model, side: Side, mode: str, *, call: Any = None) -> Trace:
    """Loss, output and the gradient of every trainable. call: the module, compiled."""
    side.module.train(mode == "train")
    side.module.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    returned = model.outputs(side.module if call is None else call, model.batch())
    returned["loss"].backward()  # type: ignore[no-untyped-call]
    found = {name: value.detach().clone() for name, value in returned.items()}
    return found | {f"gradient of {name}": side.gradient(name) for name in side.trainable}


def refused(model: Model, record: Record) -> bool:
    """Whether there is nothing to measure; reports why."""
    if reason := model.missing():
        record.untested("run", reason)
    elif sides.reference_of(record.variant) is None:
        record.not_applicable("run", "peft has no such method")
    elif reason := sides.refusal(record.variant, model):
        record.not_applicable("run", f"peft refuses: {reason}")
    return bool(record.measured)


def measured(model: Model, record: Record) -> None:
    """One cell."""
    if refused(model, record):
        return
    both = pair(record.variant, model, dropout=DROPOUT)
    _targets(record, both)
    kappa = cache(partial(sensitivity, model, both.peft))
    for mode in ("eval", "train"):
        _function(record, both, mode, kappa)
    both.lite.module.float()
    _checkpointing(record, model, both.lite)
    if model.name == COMPILED or record.variant == "lora":
        compiled(record, model, "aot_eager")


def _targets(record: Record, both: Pair) -> None:
    wanted = {
        name
        for ends in sides.placement(record.variant, both.model).values()
        for name in both.model.named(both.model.fresh(torch.float32), ends)
    }
    record.names("targets", "layers of lite", sides.targets(both.lite), wanted)
    if not sides.other_start(record.variant):  # else peft was told the layers by name
        record.names("targets", "layers", sides.targets(both.lite), sides.targets(both.peft))
    trained, there = ({name for name, tensor in side.tensors.items() if tensor.requires_grad} for side in (both.lite, both.peft))
    record.names("targets", "trained tensors", trained, there)
    for name, side in (("lite", both.lite), ("peft", both.peft)):
        more = [name for name, parameter in side.strangers().items() if parameter.requires_grad]
        record.expect("base", f"trained by {name}", ", ".join(more[:4]) or "nothing", "nothing")


def _function(record: Record, both: Pair, mode: str, kappa: Callable[[], Mapping[str, float]]) -> None:
    """lite beside peft in float64."""
    model = both.model
    with Wide():
        truth, got = trace(model, both.peft, mode), trace(model, both.lite, mode)
    touched = [name for name, parameter in both.lite.strangers().items() if parameter.grad is not None]
    record.expect("base", f"gradients in {mode} mode", ", ".join(touched[:4]) or "none", "none")
    if not LEAST <= both.effect <= MOST:
        record.untested(mode, f"the adapter moves the output by {both.effect:.1g} of its norm")
    if dead := [name for name, value in truth.items() if not value.any()]:
        record.untested(mode, f"without effect in peft: {', '.join(dead)}")
    for name, value in truth.items():
        judge = partial(policy.same_function, got[name], value, n=longest(model, both.lite), ill=policy.CHAIN)
        record.judge(mode, name, sides.bounded(judge, name, kappa))


def longest(model: Model, side: Side) -> int:
    """n of the bound: of the longest sum. That layers follow one another is in κ, for which every number of every layer is moved."""
    widths = [width for adapter in sides.attachment(side.module).adapters for width in (adapter.layer.d_in, adapter.layer.d_out)]
    return max(*widths, model.batch()["input_ids"].numel())


def sensitivity(model: Model, side: Side) -> dict[str, float]:
    """κ of everything in a trace in eval mode."""
    return sides.sensitivity(side, trace(model, side, "eval"), partial(trace, model, side, "eval"))


def _checkpointing(record: Record, model: Model, side: Side) -> None:
    """Activations that are computed again while going back: the same bits, dropout included."""
    plain, before = _counted(model, side)
    module: Any = side.module
    word = "activation" if hasattr(module, "activation_checkpointing_enable") else "gradient"  # newer transformers, older ones
    getattr(module, f"{word}_checkpointing_enable")({"use_reentrant": False})
    again, after = _counted(model, side)
    getattr(module, f"{word}_checkpointing_disable")()
    if after != 2 * before:
        return record.untested("checkpointing", f"an adapted layer is called {after} times, without it {before} times")
    for name, value in plain.items():
        record.judge("checkpointing", name, policy.same_bits(again[name], value))
    return None


def _counted(model: Model, side: Side) -> tuple[Trace, int]:
    """A trace in train mode, and how often the first adapted layer was called."""
    calls: list[nn.Module] = []
    first = side.module.get_submodule(min(sides.targets(side)))
    handle = first.register_forward_pre_hook(lambda module, args: calls.append(module))
    try:
        return trace(model, side, "train"), len(calls)
    finally:
        handle.remove()


def compiled(record: Record, model: Model, backend: str) -> None:
    """The compiled model in float32 beside the same model as it is."""
    side = pair(record.variant, model, blocks=BLOCKS).lite
    with Wide():
        truth, kappa = trace(model, side, "eval"), sensitivity(model, side)
    side.module.float()
    plain = trace(model, side, "eval")
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        got = trace(model, side, "eval", call=torch.compile(side.module, backend=backend))
    for name, value in plain.items():
        record.judge(backend, name, policy.no_less_accurate(got[name], value, truth[name], kappa=kappa[name], ill=policy.CHAIN))


def every_backend(model: Model, record: Record) -> None:
    """One cell of the long run: compiled here, too, and by inductor on one model."""
    if refused(model, record):
        return
    compiled(record, model, "aot_eager")
    if model.name != COMPILED:
        record.not_applicable("inductor", f"asked on {COMPILED}")
    elif not shutil.which("g++") and not shutil.which("clang++"):
        record.untested("inductor", "there is no C++ compiler")
    else:
        compiled(record, model, "inductor")
