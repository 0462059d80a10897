"""The check "training": lite and peft from the same start, both in float32, beside peft in float64; and lite interrupted in the middle."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import lite
from conformance import policy
from conformance.whole import sides
from conformance.whole.cell import Record
from conformance.whole.model import Trace, pair, refused, trace
from conformance.whole.sides import Side
from refs.minilm import SENTENCES
from refs.models import Model
from refs.wide import Wide

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
BLOCKS = 2  # of models that have more: steps take time
LEAST = 1e-4  # by how much a parameter has to move, relative, for a trajectory to say anything


def optimizer_of(name: str, scale: float) -> Optimizers:
    """AdamW or SGD with momentum. scale: of gradients at the start, which the steps are fitted to.

    With AdamW's default eps a number whose gradient is a rounding error would move as far as any other, in a direction that nobody
    determines.
    """
    if name == "AdamW":
        return partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, eps=scale)
    return partial(torch.optim.SGD, lr=1e-4 / scale, momentum=0.9)


@dataclass(eq=False)
class Run:
    """A model in training. begin: the parameters before. losses: of every step so far."""

    model: Model
    side: Side
    optimizer: torch.optim.Optimizer
    begin: Trace
    losses: list[Tensor]

    @classmethod
    def begun(cls, model: Model, side: Side, optimizer: Optimizers) -> "Run":
        """As users do: whatever asks for gradients is trained."""
        trained = [parameter for parameter in side.module.parameters() if parameter.requires_grad]
        return cls(model, side, optimizer(trained), {name: side.read(name) for name in side.trainable}, [])

    def steps(self, until: int) -> "Run":
        """Train up to that step, each on another pair of sentences."""
        self.side.module.train()
        for step in range(len(self.losses), until):
            first = step % len(SENTENCES)
            loss = self.model.outputs(self.side.module, self.model.batch((SENTENCES[first], SENTENCES[first - 1])))["loss"]
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.losses.append(loss.detach().clone())
        return self

    def trace(self) -> Trace:
        """All losses, and every trainable with what the optimizer keeps of it, under canonical names."""
        found = {"losses": torch.stack(self.losses)}
        for name in self.side.trainable:
            found[f"parameter {name}"] = self.side.read(name)
            for key, value in self.optimizer.state.get(self.side.tensors[name], {}).items():
                if key != "step":
                    found[f"{key} of {name}"] = self.side.entries[name].gradient_out(value, self.side.shapes[name]).clone()
        return found

    @property
    def still(self) -> list[str]:
        """The parameters that have hardly moved."""
        return [name for name, begin in self.begin.items() if policy.distance(self.side.read(name), begin) < LEAST]


def measured(steps: int, optimizers: Mapping[str, tuple[str, ...]], model: Model, record: Record) -> None:
    """One cell. optimizers: model → those that are asked there."""
    if refused(model, record):
        return
    both = pair(record.variant, model, torch.float32, blocks=BLOCKS)
    start = {name: both.lite.read(name) for name in both.lite.trainable}
    scale = _scale(model, both.peft)
    for name in optimizers[model.name]:
        optimizer = optimizer_of(name, scale)
        both.lite.write(start)
        both.peft.write(start)
        exact = sides.wrap(record.variant, model, model.fresh(blocks=BLOCKS), both.lite)
        with Wide():
            kappa = sensitivity(model, exact, optimizer, steps)
            exact.write({name: value.double() for name, value in start.items()})
            true = Run.begun(model, exact, optimizer).steps(steps)
        truth = true.trace()
        reference = Run.begun(model, both.peft, optimizer).steps(steps).trace()
        got = Run.begun(model, both.lite, optimizer).steps(steps).trace()
        if true.still:
            record.untested(name, f"hardly moves in {steps} steps: {', '.join(true.still)}")
        record.names(name, "what is trained and kept", set(got), set(truth))
        for what in (what for what in truth if what in got):
            near = policy.no_less_accurate(got[what], reference[what], truth[what], kappa=kappa[what], ill=policy.CHAIN)
            record.judge(name, what, near)
        both.lite.write(start)
        again = resumed(model, both.lite, optimizer, steps)
        record.names(f"{name} resumed", "what is kept", set(again), set(got))
        for what in (what for what in got if what in again):
            record.judge(f"{name} resumed", what, policy.same_bits(again[what], got[what]))


def _scale(model: Model, side: Side) -> float:
    """The root mean square of all gradients."""
    found = trace(model, side, "train")
    return float(
        torch.cat([value.flatten() for name, value in found.items() if name.startswith("gradient")]).square().mean().sqrt()
    )


def sensitivity(model: Model, side: Side, optimizer: Optimizers, steps: int) -> dict[str, float]:
    """κ of everything at the end of a trajectory."""
    start = {name: side.read(name) for name in side.trainable}

    def run() -> Trace:
        return Run.begun(model, side, optimizer).steps(steps).trace()

    plain = run()
    side.write(start)
    return sides.sensitivity(side, plain, run)


def resumed(model: Model, side: Side, optimizer: Optimizers, steps: int) -> Trace:
    """Half of the steps, saved; the other half on a fresh base that has read the files."""
    half = Run.begun(model, side, optimizer).steps(steps // 2)
    with TemporaryDirectory() as folder:
        adapter, state = Path(folder, "adapter.safetensors"), Path(folder, "optimizer.pt")
        lite.save(side.module, adapter)
        torch.save(half.optimizer.state_dict(), state)
        fresh = sides.lite_side(lite.load(model.fresh(torch.float32, blocks=BLOCKS), adapter))
        rest = Run.begun(model, fresh, optimizer)
        rest.optimizer.load_state_dict(torch.load(state))
    rest.losses = half.losses
    return rest.steps(steps).trace()
