"""A subject: an adapter on one base layer, built for a case, its tensors under canonical names."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from refs.case import Case, as_dtype
from refs.formula import Formula, Tensors
from refs.gauge import signs, turned
from refs.maps import Entry
from refs.problem import Problem, base
from refs.threads import threads

Trace = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Subject:
    """A live adapter.

    module: what is trained and put into train or eval mode.
    call: (x) → output; x (…, d_in).
    map: canonical name → foreign name in `tensors`.
    tensors: the foreign tensors by foreign name: parameters and buffers alike.
    shapes: canonical shapes of what the map names.
    """

    module: nn.Module
    call: Callable[[Tensor], Tensor]
    map: Mapping[str, Entry]
    tensors: Mapping[str, Tensor]
    shapes: Shapes

    def __getitem__(self, name: str) -> Tensor:
        """The live foreign tensor behind a canonical name; KeyError that shows what there is."""
        if name not in self.map:
            raise KeyError(f"the map has no entry {name}; it has {', '.join(sorted(self.map))}")
        foreign = self.map[name].name
        if foreign not in self.tensors:
            raise KeyError(f"{name} is mapped to {foreign}, which is not there; there are {', '.join(sorted(self.tensors))}")
        return self.tensors[foreign]

    def read(self, name: str) -> Tensor:
        """A copy of the value under a canonical name, in canonical orientation."""
        return self.map[name].carry_out(self[name].detach(), self.shapes[name]).clone()

    @property
    def trainable(self) -> set[str]:
        """Foreign names of everything that would be trained."""
        return {name for name, tensor in self.tensors.items() if tensor.requires_grad}

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Copy canonical values in."""
        with torch.no_grad():
            for name, value in values.items():
                target = self[name]
                foreign = self.map[name].carry_in(value)
                if foreign.shape != target.shape:
                    raise ValueError(
                        f"{name} should be written to {self.map[name].name} as {tuple(foreign.shape)}, it is {tuple(target.shape)}"
                    )
                target.copy_(foreign)


def caller(module: nn.Module, case: Case, input_name: str) -> Callable[[Tensor], Tensor]:
    """How the case calls a module: by position, or by the name that its forward gives the input."""

    def by_keyword(x: Tensor) -> Tensor:
        output: Tensor = module(**{input_name: x})
        return output

    return module if case.call == "positional" else by_keyword


class Implementation(Hashable, Protocol):
    """Something that builds subjects: lite, a reference, somebody's own layer. Hashed by identity: its runs are cached."""

    @property
    def name(self) -> str:
        """What pages call it."""

    def missing(self) -> str | None:
        """Why it cannot run on this machine at all, or None."""

    def refuses(self, case: Case) -> str | None:
        """Why it cannot build this case, or None."""

    def build(self, case: Case, problem: Problem) -> Subject:
        """A subject at its own init, seeded with `case.seed` immediately before it."""


def seed(case: Case) -> None:
    """Seed torch's generator; on the CPU directly, because `torch.manual_seed` formats a stack trace for devices not yet in use."""
    if case.device == "cpu":
        torch.default_generator.manual_seed(case.seed)
    else:
        torch.manual_seed(case.seed)


def run_at(subject: Subject, case: Case, problem: Problem, formula: Formula) -> Trace:
    """`run` with the case's parameters, and its frozen tensors where they are copied. In the state "own" the subject keeps its own
    frozen tensors, and the parameters are turned to the signs of its components; the trace is turned back.
    """
    if case.state != "own":
        return run(subject, case, problem, problem.parameters | problem.frozen)
    sign = own_signs(subject, case, formula)
    values = {name: turned(formula.gauge, name, value, sign) for name, value in problem.parameters.items()}
    trace = run(subject, case, problem, values)
    return {name: turned(formula.gauge, name.removeprefix("grad."), value, sign) for name, value in trace.items()}


def own_signs(subject: Subject, case: Case, formula: Formula) -> Tensor:
    """The signs of a subject's components, told by what it started with."""
    name = next(iter(formula.gauge))
    return signs(formula.gauge, subject.read(name).double(), formula.begin(case, base(case)[0]).decomposed[name])


def run(subject: Subject, case: Case, problem: Problem, values: Tensors | None = None) -> Trace:
    """Run once: output, grad.x and, in train mode, grad.NAME for every trainable of the case, in canonical orientation and
    the adapter's dtype. Not in eval mode, where a layer may have merged its weights.

    values: what to copy in first; None leaves the subject's own. Dropout is seeded with `case.seed`.
    The trace owns its tensors. A trainable that the output does not depend on gets a gradient of zeros.
    """
    if values is not None:
        subject.write(values)
    subject.module.train(case.mode == "train")
    names = list(problem.parameters) if case.mode == "train" else []
    live = [subject[name] for name in names]
    x = problem.x.to(case.device, case.torch_dtype, copy=True).requires_grad_()
    with threads(case.threads):
        seed(case)
        output = subject.call(x)
        trace: Trace = {"output": output.detach().clone()}
        if output.shape != problem.cotangent.shape:  # the check's to report
            return trace
        cotangent = problem.cotangent.to(output.device, output.dtype)
        gradients = torch.autograd.grad(output, [x, *live], cotangent, allow_unused=True)
    for name, tensor, gradient in zip(["x", *names], [x, *live], gradients, strict=True):
        value = torch.zeros_like(tensor) if gradient is None else gradient.detach().clone()
        if name != "x":
            value = subject.map[name].gradient_out(value, subject.shapes[name]).to(as_dtype(case.adapter_dtype or case.dtype))
        trace[f"grad.{name}"] = value
    return trace
