"""The check "quantised": what each variant does on bitsandbytes' layers, what peft does there, and whether it is the same."""

import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import peft
import torch
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn

import lite
from conformance import policy
from conformance.hosts import changes
from conformance.whole import sides
from conformance.whole.cell import Record
from conformance.whole.model import Trace, longest, trace
from conformance.whole.sides import Side
from refs.models import Model
from refs.numbers import normal, signs
from refs.quantised import Quantised, installed

CHECK = "quantised"
LITE, PEFT, SAME = "lite", "peft", "lite beside peft"
REFUSES, LACKS, OTHERWISE, DEQUANTISES = (
    " refuses",
    " has none",
    " does otherwise",
    " dequantises",
)  # groups of their own, after the name of who does
RELEASE = "release"  # of what the bases were quantised with
READ = "peft.utils.integrations.dequantize_bnb_weight"
NAMED = ("pissa", "olora")  # starts that peft's config names as we do; elsewhere the reference says it
# Where peft does another thing than its method: the least distance of its start from the model, relative to the output, and what it does.
ANOTHER = {
    ("hra", "int8"): (1e-2, "takes the codes for the weight, without a word"),
    ("olora", "nf4"): (1e-4, "dequantises the weight, takes the start out of it and quantises what is left"),
    ("olora", "int8"): (1e-4, "dequantises the weight, takes the start out of it and quantises what is left"),
}


def measured(model: Model, record: Record) -> None:
    """One cell of a quantised model."""
    assert isinstance(model, Quantised)
    if reason := model.missing():
        for group in (LITE, PEFT, SAME):
            record.untested(group, reason)
        return
    record.not_applicable(RELEASE, installed())
    ours, theirs = _lite(record, model), _peft(record, model)
    if not ours or not theirs:
        record.not_applicable(SAME, "nothing to compare")
    elif (record.variant, model.name) in ANOTHER:
        record.not_applicable(SAME, f"peft {ANOTHER[record.variant, model.name][1]}")
    else:
        _same(record, model)


def held(base: nn.Module) -> dict[str, Any]:
    """Codes, scales and other numbers, as they are, and hooks."""
    found: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in (*base.named_parameters(), *base.named_buffers())}
    found |= {f"requires_grad of {name}": parameter.requires_grad for name, parameter in base.named_parameters()}
    for name, module in base.named_modules():
        found[f"hooks of {name}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            found[f"scales of {name}"] = state.absmax.clone()
    return found


def _lite(record: Record, model: Quantised) -> bool:
    """lite alone: refused before anything is touched, or it works. Returns whether."""
    reads = lite.VARIANTS[record.variant].reads_weight
    base = model.fresh()
    before = held(base)
    try:
        side = sides.attach(record.variant, model, base)
    except ValueError as error:
        record.expect(LITE, "touched by the refusal", _some(changes(before, held(base))), "nothing")
        record.expect(LITE, "because it reads the weight", reads and "reads the weight" in str(error), True)
        record.not_applicable(LITE + REFUSES, str(error).partition(": ")[2])
        return False
    record.expect(LITE, "reads the weight", reads, False)
    _works(record, LITE, model, side)
    _file(record, model, side)
    lite.detach(base)
    record.expect(LITE, "left by detach", _some(changes(before, held(base))), "nothing")
    half = model.fresh(torch.bfloat16)
    _works(record, LITE, model, sides.attach(record.variant, model, half), "bfloat16: ")
    return True


def _works(record: Record, group: str, model: Quantised, side: Side, dtype: str = "") -> None:
    """In train mode: a finite loss, a gradient for every trainable, also through the layers behind it, none for the base."""
    with torch.no_grad():
        for name in side.trainable:
            tensor = side.tensors[name]
            tensor += 0.1 * normal("quantised", record.variant, name, shape=tuple(tensor.shape)).to(tensor)
    found = trace(model, side, "train")
    record.expect(
        group, f"{dtype}not finite", _some(name for name, value in found.items() if not value.isfinite().all()), "nothing"
    )
    record.expect(group, f"{dtype}without gradient", _some(name for name, value in found.items() if not value.any()), "nothing")
    touched = [name for name, parameter in side.strangers().items() if parameter.grad is not None]
    record.expect(group, f"{dtype}base with gradient", _some(touched), "nothing")


def _file(record: Record, model: Quantised, side: Side) -> None:
    """A file comes back on the same base, also on one that has been run, and is refused on another."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        lite.save(side.module, file)
        used = model.fresh()
        with torch.no_grad():
            model.outputs(used, model.batch())
        for what, base, should in (
            ("the same", model.fresh(), "loads"),
            ("one that was run", used, "loads"),
            ("twice the weights", model.doubled(), "refused"),
        ):
            try:
                loaded = sides.lite_side(lite.load(base, file))
            except ValueError as error:
                record.expect(LITE, f"file on {what}", "refused" if should == "refused" else f"refused: {error}", should)
                continue
            record.expect(LITE, f"file on {what}", "loads", should)
            record.expect(LITE, f"values on {what}", _differing(side.tensors, loaded.tensors), "nothing")


def _differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    return _some(name for name, value in one.items() if not value.equal(other[name]))


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3]) or "nothing"


def _peft(record: Record, model: Quantised) -> bool:
    """peft alone, from its own start. Returns whether it works."""
    reference = sides.reference_of(record.variant)
    if reference is None:
        record.not_applicable(PEFT + LACKS, "peft has no such method")
        return False
    plain = Side(model.fresh(), {}, {}, {}, ())
    should = trace(model, plain, "train")
    kappa = sensitivity(model, plain, should)["logits"]
    try:
        with patch(READ, wraps=dequantize_bnb_weight) as at_start:
            wrapped = _wrapped(record.variant, model)
        with patch(READ, wraps=dequantize_bnb_weight) as in_forward:
            returned = model.outputs(wrapped, model.batch())
        returned["loss"].backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # in whatever way it does not take it
        record.not_applicable(PEFT + REFUSES, f"{type(error).__name__}: {error}")
        return False
    if at_start.called or in_forward.called:
        when = " and ".join(
            word for word, mock in (("at its start", at_start), ("in every forward pass", in_forward)) if mock.called
        )
        record.not_applicable(PEFT + DEQUANTISES, f"peft dequantises the weight {when}")
    trained = {name: parameter.grad for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    record.expect(PEFT, "without gradient", _some(name for name, gradient in trained.items() if gradient is None), "nothing")
    if documented := ANOTHER.get((record.variant, model.name)):
        least, reason = documented
        distance = policy.distance(returned["logits"], should["logits"])
        record.expect(
            PEFT, "documented start", "as documented" if distance > least else f"{distance:.1g} from the model", "as documented"
        )
        record.diverges(PEFT + OTHERWISE, "start", f"peft {reason}")
    else:
        widest = max(int(value) for value in (model.arguments["intermediate_size"], model.arguments["vocab_size"]))
        record.judge(PEFT, "start", policy.same_output(returned["logits"].detach(), should["logits"], n=widest, kappa=kappa))
    return True


def _wrapped(variant: str, model: Quantised) -> nn.Module:
    reference = sides.reference_of(variant)
    assert reference is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice to its users
        if sides.other_start(variant):
            start = {"init_lora_weights": variant} if variant in NAMED else {}
            config = reference.config(target_modules=list(model.layers), **reference.arguments(sides.asked(variant)), **start)
        else:
            config = sides.config(variant, model, Side(nn.Identity(), {}, {}, {}, ()))
        wrapped: nn.Module = peft.get_peft_model(model.fresh(), config, autocast_adapter_dtype=False)
    return wrapped.train()


def _same(record: Record, model: Quantised) -> None:
    """The same numbers in both, moved."""
    ours = sides.attach(record.variant, model, model.fresh())
    theirs = sides.wrap(record.variant, model, model.fresh(), ours)
    plain = trace(model, Side(model.fresh(), {}, {}, {}, ()), "train")["logits"]

    @torch.enable_grad()  # without, bitsandbytes takes another way on some machines
    def moves() -> float:
        return policy.distance(trace(model, theirs, "train")["logits"], plain)

    sides.perturb(record.variant, model, ours, theirs, moves)
    got, should = trace(model, ours, "train"), trace(model, theirs, "train")
    kappa = sensitivity(model, theirs, should)
    for name, value in should.items():
        record.judge(SAME, name, policy.same_output(got[name], value, n=longest(model, ours), kappa=kappa[name]))
    if not any(value.any() for value in should.values()):
        record.untested(SAME, "peft's gradients are zero")


def sensitivity(model: Quantised, side: Side, truth: Trace) -> dict[str, float]:
    """κ of everything in a trace, in u32, when every number that is no code moves by one float32 rounding; at least 1."""
    kappa = dict.fromkeys(truth, 1.0)
    tensors = [(n, t) for n, t in (*side.module.named_parameters(), *side.module.named_buffers()) if t.is_floating_point()]
    before = [tensor.detach().clone() for _, tensor in tensors]
    for draw in range(sides.DRAWS):
        for (name, tensor), value in zip(tensors, before, strict=True):
            tensor.data = (value * (1 + 2 * policy.U32 * signs("jitter", draw, name, shape=tuple(value.shape)))).to(value.dtype)
        for name, value in trace(model, side, "train").items():
            kappa[name] = max(kappa[name], policy.distance(value, truth[name]) / (2 * policy.U32))
    for (_, tensor), value in zip(tensors, before, strict=True):
        tensor.data = value
    return kappa
