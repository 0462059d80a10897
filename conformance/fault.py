"""Faults of a chosen size, put into a layer that is right: what the detection floor is measured with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import Subject

DELTA, INPUT = "delta", "x"
KINDS = ("scale", "row", "element", "sign")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in a layer.

    tensor: "delta" (what the adapter adds to the output; the gradients follow), or whose gradient is wrong: "x" or a parameter.
    kind: "scale" (all of it times 1 + size), "row" (one feature of the delta, or one row of a gradient, times 1 + size),
        "element" (the one of median magnitude, times 1 + size), or "sign" (of the smallest element of at least size · RMS).
    """

    kind: str
    tensor: str

    def factor(self, value: Tensor, size: float) -> Tensor:
        """What the faulty layer multiplies value by, 1 where it is right; the same shape."""
        value = value.detach().double()
        wrong = torch.zeros_like(value)
        if self.kind == "scale":
            wrong += size
        elif self.kind == "row":
            wrong[(..., -1) if self.tensor == DELTA else -1] = size  # (…, d_out) and (rows, …)
        elif self.kind == "element":
            wrong.view(-1)[value.abs().flatten().argsort()[value.numel() // 2]] = size
        else:
            least = min(size * float(value.square().mean().sqrt()), float(value.abs().max()))
            smallest = torch.where(value.abs() >= least, value.abs(), torch.inf)
            wrong.view(-1)[smallest.flatten().argmin()] = -2.0
        factor: Tensor = 1 + wrong
        return factor


@dataclass(frozen=True, eq=False)
class Faulty:
    """A sound candidate with one fault of one size. sound: builds its subjects; the same one may be given again and again."""

    sound: Callable[[Case, Problem], Subject]
    fault: Fault
    size: float
    name: str = "faulty"

    def missing(self) -> str | None:
        """Always here."""
        return None

    def refuses(self, case: Case) -> str | None:
        """Takes what the sound one takes."""
        return None

    def build(self, case: Case, problem: Problem) -> Subject:
        """The sound subject, called with the fault."""
        subject = self.sound(case, problem)
        base = base_layer(case, problem.weight, problem.bias)

        def call(x: Tensor) -> Tensor:
            if self.fault.tensor == DELTA:
                y = subject.call(x)
                delta: Tensor = y - base(x)
                return y + delta * (self.fault.factor(delta, self.size) - 1).to(delta.dtype)
            self._spoil_gradient(x if self.fault.tensor == INPUT else subject[self.fault.tensor])
            return subject.call(x)

        return replace(subject, call=call)

    def _spoil_gradient(self, tensor: Tensor) -> None:
        """Of the next backward pass only: the tensor may be another fault's afterwards."""

        def spoiled(gradient: Tensor) -> Tensor:
            handle.remove()
            return (gradient.double() * self.fault.factor(gradient, self.size)).to(gradient.dtype)

        handle = tensor.register_hook(spoiled)  # type: ignore[no-untyped-call]
