"""The reference `closed form`: a variant's formula, built and run like any other layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from refs.calibration import calls
from refs.case import Case
from refs.formula import RESIDUAL, Formula, Tensors
from refs.gauge import signs, turned
from refs.maps import Entry
from refs.numbers import signs as signs_of
from refs.problem import Problem, start
from refs.subject import Subject, run_at


class Dense(nn.Module):
    """x W′ᵀ + b′, with W′ and b′ formed from the base and the trainables at every call."""

    def __init__(self, case: Case, problem: Problem, formula: Formula, trainable: Tensors, frozen: Tensors) -> None:
        super().__init__()
        self.case, self.formula = case, formula
        self.weight, self.bias = problem.weight.clone(), None if problem.bias is None else problem.bias.clone()
        self.trainable = nn.ParameterDict({name: value.clone() for name, value in trainable.items()})
        self.frozen = {name: value.clone() for name, value in frozen.items()}

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out), float64. Dropout acts on the input of W′ − W only."""
        copied = self.frozen if self.formula.copied else {}
        weight, bias = self.formula.adapted(self.case, self.weight, self.bias, dict(self.trainable.items()) | copied)
        p = self.case.option("dropout", 0.0)
        if not (p and self.training):
            return linear(x, weight, bias)
        kept = self.frozen.get(RESIDUAL, self.weight)
        return linear(x, kept, bias) + linear(dropout(x, p), weight - kept)


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A formula as an implementation."""

    formula: Formula
    name: str = "closed form"
    other_start: None = None
    is_fixed: bool = False

    def missing(self) -> str | None:
        """Always here."""
        return None

    def refuses(self, case: Case) -> str | None:
        """float64 only: it is the oracle, not a competitor in rounding."""
        return None if case.dtype == "float64" else "the closed form runs in float64 only"

    def build(self, case: Case, problem: Problem) -> Subject:
        """A subject at the formula's init; its numbers come from the case, not from torch's generator."""
        return self.at(case, problem, start(case, self.formula, problem.weight), self.formula.begin(case, problem.weight).frozen)

    def at(self, case: Case, problem: Problem, trainable: Tensors, frozen: Tensors) -> Subject:
        """A subject that starts somewhere else."""
        module = Dense(case, problem, self.formula, trainable, frozen)
        tensors = dict(module.trainable.items()) | module.frozen
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return Subject(module, module, {name: Entry(name) for name in tensors}, tensors, shapes)

    @property
    def version(self) -> str:
        """The paper and the place in it."""
        return self.formula.source

    @property
    def equation(self) -> str:
        """What the paper says."""
        return self.formula.equation


def sensitivity(case: Case, problem: Problem, formula: Formula, draws: int = 4) -> dict[str, float]:
    """κ of every tensor of the trace: its largest relative change, in units of u32, when every input, weight and
    parameter is jittered by one float32 rounding; at least 1 (design: tolerances).
    """
    exact = case.but(dtype="float64", mode="train", adapter_dtype=None, options={"dropout": 0.0})

    def trace(at: Problem) -> dict[str, Tensor]:
        given = at.frozen or formula.begin(exact, at.weight).frozen
        return run_at(ClosedForm(formula).at(exact, at, at.parameters, given), exact, at, formula)

    return _largest_changes(trace(problem), (trace(_jittered(case, problem, draw, formula)) for draw in range(draws)))


def start_sensitivity(case: Case, problem: Problem, formula: Formula, draws: int = 4) -> dict[str, float]:
    """κ of everything that a method takes from a decomposition of the weight, or from data, where it starts."""

    def started(at: Problem) -> dict[str, Tensor]:
        data = calls(at.data, labels=formula.label_mask)
        return aligned(formula, formula.begin(case, at.weight, data).decomposed, reference)

    reference = formula.begin(case, problem.weight).decomposed
    plain = aligned(formula, reference, reference)
    return _largest_changes(plain, (started(_jittered(case, problem, draw, formula)) for draw in range(draws)))


def aligned(formula: Formula, own: Tensors, reference: Tensors) -> Tensors:
    """A start with the signs of its components turned to a reference's, and what does not depend on them: the product of its
    factors and their spectra.
    """
    if formula.gauge:
        first = next(iter(formula.gauge))
        sign = signs(formula.gauge, own[first].double(), reference[first])
        own = {name: turned(formula.gauge, name, value, sign) for name, value in own.items()}
    if {"lora_A", "lora_B"} <= own.keys():
        own = own | {"B·A": own["lora_B"] @ own["lora_A"]}
    spectra = {f"spectrum of {name}": torch.linalg.svdvals(own[name].double()) for name in formula.gauge if name in own}
    return own | spectra


def _jittered(case: Case, problem: Problem, draw: int, formula: Formula) -> Problem:
    def jittered(name: str, tensor: Tensor) -> Tensor:
        return tensor * (1 + 2.0**-24 * signs_of(case.seed, "jitter", draw, name, shape=tuple(tensor.shape)))

    def beside_jumps(name: str, tensor: Tensor) -> Tensor:
        return torch.where(tensor == formula.jumps.get(name, torch.inf), tensor, jittered(name, tensor))

    return replace(
        problem,
        x=jittered("x", problem.x),
        weight=jittered("weight", problem.weight),
        bias=None if problem.bias is None else jittered("bias", problem.bias),
        parameters={name: beside_jumps(name, value) for name, value in problem.parameters.items()},
        frozen={name: jittered(name, value) for name, value in problem.frozen.items()},
        data=tuple(
            replace(batch, layer=jittered(f"data {n}", batch.layer), beside=jittered(f"beside {n}", batch.beside))
            for n, batch in enumerate(problem.data)
        ),
    )


def _largest_changes(plain: Mapping[str, Tensor], draws: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    kappa = dict.fromkeys(plain, 1.0)
    for drawn in draws:
        for name, value in drawn.items():
            norm = plain[name].norm()
            change = float((value - plain[name]).norm() / norm) if norm > 0 else 0.0
            kappa[name] = max(kappa[name], change / 2.0**-24)
    return kappa
