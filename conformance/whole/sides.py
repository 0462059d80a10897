"""The two sides of a whole model: lite attached to one copy of the base, peft wrapped around another, the same numbers in both."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

import lite
from conformance import policy
from conformance.policy import Judgement
from conformance.suite_of import suite_of
from conformance.suites.lite_layers import LiteLayer
from conformance.verdict import Verdict
from lite.runtime import Attachment, attached
from refs.case import Case
from refs.maps import Entry, parse
from refs.models import Model
from refs.numbers import normal, signs
from refs.peft_layer import PeftLayer, tensors_of
from refs.wide import Rounded, Wide

RANK, ALPHA = 4, 6.0
EFFECT = 0.05  # how far the output is moved, relative
DRAWS = 2  # each moves a hundred thousand numbers
OPTIONS: dict[str, dict[str, Any]] = {
    "road": {"group_size": 8},
    "antipasto_arrow": {"block": 2},
    "antipasto_dplr": {"lora_rank": 2},
}  # where a default does not fit small layers
PREFIX = "base_model.model."  # peft's, before a name of the base
SHARED, NOWHERE = "tinylora_v", Entry("")  # TinyLoRA keeps the numbers of all layers in one place, in their order
REFUSED = re.compile(r"not supported|only support", re.IGNORECASE)


@dataclass(eq=False)
class Side:
    """One adapted model.

    module: what is called. tensors: the adapter's, live, by LAYER.NAME under canonical names. entries: how each is stored.
    shapes: canonical. trainable: the names of those that are trained.
    """

    module: nn.Module
    tensors: dict[str, Tensor]
    entries: dict[str, Entry]
    shapes: dict[str, tuple[int, ...]]
    trainable: tuple[str, ...]

    def read(self, name: str) -> Tensor:
        """A copy of the value, in canonical orientation."""
        return self.entries[name].carry_out(self.tensors[name].detach(), self.shapes[name]).clone()

    def gradient(self, name: str) -> Tensor:
        """By that tensor, in canonical orientation; zeros where the loss does not depend on it."""
        tensor = self.tensors[name]
        value = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        return self.entries[name].gradient_out(value, self.shapes[name]).clone()

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        """Copy canonical values in."""
        for name, value in values.items():
            self.tensors[name].copy_(self.entries[name].carry_in(value))

    def strangers(self) -> dict[str, nn.Parameter]:
        """All parameters that are not the adapter's own."""
        own = {id(tensor) for tensor in self.tensors.values()}
        return {name: parameter for name, parameter in self.module.named_parameters() if id(parameter) not in own}


def reference_of(variant: str) -> PeftLayer | None:
    """The method of peft that a variant is compared with, whole models included; None where peft has none."""
    own = [reference for reference in suite_of(variant).references if isinstance(reference, PeftLayer)]
    return own[-1] if own else None


def asked(variant: str, dropout: float = 0.0) -> Case:
    """What both sides are asked for, in the words of cases."""
    suite = suite_of(variant)
    plain = suite.cases[0]
    options = OPTIONS.get(variant, {}) | ({"dropout": dropout} if suite.dropout and dropout else {})
    return Case(
        d_in=plain.d_in,
        d_out=plain.d_out,
        rank=RANK if plain.rank else None,
        alpha=ALPHA if plain.alpha else None,
        options=tuple(options.items()),
    )


def placement(variant: str, model: Model) -> dict[str, tuple[str, ...]]:
    """Variant → the ends of the names of its targets. IA3 scales keys, values and the feed-forward input, as its paper has it; HRA
    leaves wide layers out, for which peft forms matrices of d_in × d_in, one reflection after the other.
    """
    if variant == "ia3":
        return {"ia3": model.keys_values, "ia3_ff": model.feed_forward}
    if variant == "hra":
        return {"hra": tuple(end for end in model.layers if end not in model.wide)}
    return {variant: model.feed_forward if variant == "ia3_ff" else model.layers}


def configs(variant: str, model: Model, dropout: float = 0.0) -> list[lite.Config]:
    """What lite is asked for."""
    return [
        replace(_candidate(name).config(asked(name, dropout)), target_names=tuple(rf"(^|\.){re.escape(end)}$" for end in ends))
        for name, ends in placement(variant, model).items()
    ]


def _candidate(variant: str) -> LiteLayer:
    candidate = suite_of(variant).candidate
    assert isinstance(candidate, LiteLayer)
    return candidate


def attach(variant: str, model: Model, base: nn.Module, dropout: float = 0.0) -> Side:
    """lite on a base, through its public functions."""
    data = [model.batch()] if suite_of(variant).formula.init_from else None
    torch.manual_seed(0)
    lite.attach(base, configs(variant, model, dropout), data)
    return lite_side(base)


def lite_side(module: nn.Module) -> Side:
    """A model that lite is attached to."""
    there = attachment(module)
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    trainable: list[str] = []
    for adapter in there.adapters:
        for name, tensor in adapter.live().items():
            tensors[f"{adapter.layer.name}.{name}"] = tensor
            shapes[f"{adapter.layer.name}.{name}"] = adapter.shapes[name]
        trainable += [f"{adapter.layer.name}.{name}" for name in adapter.parameters]
    entries = {name: Entry(name) for name in tensors}
    return Side(module, tensors, entries, shapes, tuple(trainable))


def attachment(module: nn.Module) -> Attachment:
    """What lite did to a model."""
    there = attached(module)
    assert there is not None
    return there


def wrap(variant: str, model: Model, base: nn.Module, beside: Side, dropout: float = 0.0) -> Side:
    """peft around a base, with the numbers of lite's side: all tensors, and the base weights that a start took a part out of.

    Methods that are LoRA with another start are peft's plain LoRA of the same ranks. Raises what peft raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice to its users
        wrapped = peft.get_peft_model(base, config(variant, model, beside, dropout), autocast_adapter_dtype=False)
    side = _peft_side(variant, wrapped, beside)
    side.write({name: beside.read(name) for name in side.tensors})
    for layer in attachment(beside.module).originals:
        with torch.no_grad():
            where = wrapped.get_submodule(PREFIX + layer)
            assert isinstance(where, BaseTunerLayer)
            where.get_base_layer().weight.copy_(beside.module.get_submodule(layer).weight)
    wrapped.eval()
    return side


def config(variant: str, model: Model, beside: Side, dropout: float = 0.0) -> Any:
    """peft's config for the same."""
    reference, case = reference_of(variant), asked(variant, dropout)
    assert reference is not None
    ends = placement(variant, model)
    targets = [end for each in ends.values() for end in each]
    if variant in ("ia3", "ia3_ff"):
        return reference.config(target_modules=targets, feedforward_modules=list(ends["ia3_ff"]))
    if not other_start(variant):
        return reference.config(target_modules=targets, **reference.arguments(case))
    plain = reference_of("lora")
    assert plain is not None
    resolved = {adapter.layer.name: adapter.config.to_dict() for adapter in attachment(beside.module).adapters}
    return plain.config(
        target_modules=list(resolved),
        rank_pattern={f"^{re.escape(name)}$": options["r"] for name, options in resolved.items()},
        alpha_pattern={f"^{re.escape(name)}$": options["alpha"] for name, options in resolved.items()},
        **plain.arguments(case),
    )


def other_start(variant: str) -> bool:
    """Whether it is LoRA that starts elsewhere."""
    return variant != "lora" and lite.VARIANTS[variant].peft == lite.VARIANTS["lora"].peft


def _peft_side(variant: str, wrapped: nn.Module, beside: Side) -> Side:
    case = asked(variant)
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Entry] = {}
    for place, adapter in enumerate(attachment(beside.module).adapters):
        layer, name = wrapped.get_submodule(PREFIX + adapter.layer.name), adapter.layer.name
        reference = reference_of(adapter.variant.name)
        assert reference is not None
        if not isinstance(layer, BaseTunerLayer):
            continue  # what lite alone has adapted is told by the targets
        if variant == "lora_xs":
            reference.reset(layer, case)
        own = {key: entry for key, entry in parse(reference.map).items() if key in adapter.shapes}
        if SHARED in own.get("lora_R", NOWHERE).name:
            own["lora_R"] = replace(own["lora_R"], name=f"{SHARED}.{place}")
        found = tensors_of(layer, {entry.name for entry in own.values()})
        for key, entry in own.items():
            tensors[f"{name}.{key}"], entries[f"{name}.{key}"] = found[entry.name], entry
    trainable = tuple(name for name in beside.trainable if name in tensors)
    return Side(wrapped, tensors, entries, {name: beside.shapes[name] for name in tensors}, trainable)


def targets(side: Side) -> set[str]:
    """The names of the adapted layers, as the base calls them."""
    there = attached(side.module)
    if there:
        return {adapter.layer.name for adapter in (*there.adapters, *there.left_out)}
    return {name.removeprefix(PREFIX) for name, module in side.module.named_modules() if isinstance(module, BaseTunerLayer)}


def refusal(variant: str, model: Model) -> str | None:
    """Why peft does not take this variant on this model, in its own words; None if it does. Other exceptions are not caught."""
    base = model.fresh(torch.float32, blocks=1)
    side = attach(variant, model, model.fresh(torch.float32, blocks=1))
    try:
        wrap(variant, model, base, side)
    except (ValueError, NotImplementedError, TypeError) as error:
        if REFUSED.search(str(error)):
            return str(error)
        raise
    return None


@torch.no_grad()
def perturb(variant: str, model: Model, lite_: Side, peft_: Side, moves: Callable[[], float]) -> None:
    """Move every trainable of both sides, as the formulas' own cases do, until peft's output has moved by `EFFECT`."""
    start = {name: lite_.read(name) for name in lite_.trainable}
    strength = 2.0**-8
    while True:
        values = _moved(variant, model, lite_, start, strength)
        peft_.write({name: values[name] for name in peft_.trainable})
        if moves() >= EFFECT or strength > 2.0**8:
            break
        strength *= 2
    lite_.write(values)


def _moved(variant: str, model: Model, side: Side, start: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for adapter in attachment(side.module).adapters:
        layer = adapter.layer.name
        own = {name: start[f"{layer}.{name}"].double() for name in adapter.parameters}
        noise = {
            name: normal("whole noise", variant, model.name, layer, name, shape=tuple(value.shape)) for name, value in own.items()
        }
        formula = suite_of(adapter.variant.name).formula
        moved = formula.moved(asked(adapter.variant.name), own, noise, strength)
        values |= {f"{layer}.{name}": value.float().to(start[f"{layer}.{name}"].dtype) for name, value in moved.items()}
    return values


@contextmanager
def jittered(side: Side, *key: object) -> Iterator[None]:
    """Every number of a model, and everything that is computed with them, moved by one float32 rounding, up or down."""
    module = side.module
    tensors = {id(t): (name, t) for name, t in [*module.named_parameters(), *module.named_buffers()] if t.is_floating_point()}
    before = {name: tensor.detach().clone() for name, tensor in tensors.values()}
    try:
        for name, tensor in tensors.values():
            tensor.data = before[name] * (1 + 2.0**-24 * signs("jitter", *key, name, shape=tuple(tensor.shape)))
        with Rounded("jitter", *key):
            yield
    finally:
        for name, tensor in tensors.values():
            tensor.data = before[name]


def sensitivity(side: Side, truth: Mapping[str, Tensor], run: Callable[[], Mapping[str, Tensor]]) -> dict[str, float]:
    """κ of everything in a trace: its largest relative change, in u32, when everything moves by one rounding; at least 1.

    run: makes the trace of that side again.
    """
    kappa = dict.fromkeys(truth, 1.0)
    for draw in range(DRAWS):
        with jittered(side, draw):
            drawn = run()
        for name, value in drawn.items():
            kappa[name] = max(kappa[name], policy.distance(value, truth[name]) / policy.U32)
    return kappa


def bounded(judge: Callable[..., Judgement], name: str, kappa: Callable[[], Mapping[str, float]]) -> Judgement:
    """What the policy says with κ, which is measured only where its least, 1, is not enough: it takes several runs of the model."""
    judgement = judge(kappa=1.0)
    if judgement.verdict is not Verdict.FAILS:
        return judgement
    with Wide():
        return judge(kappa=kappa()[name])
