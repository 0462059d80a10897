"""The reference `closed form`: a variant's formula, built and run like any other layer."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from refs.case import Case
from refs.formula import Formula
from refs.maps import Entry
from refs.numbers import signs
from refs.problem import Problem, start
from refs.subject import Subject, run


class Dense(nn.Module):
    """x W′ᵀ + b′, with W′ and b′ formed from the base and the trainables at every call."""

    def __init__(self, case: Case, problem: Problem, formula: Formula) -> None:
        super().__init__()
        self.case, self.formula = case, formula
        self.weight, self.bias = problem.weight.clone(), None if problem.bias is None else problem.bias.clone()
        self.trainable = nn.ParameterDict(start(case, formula, self.weight))
        self.frozen = formula.frozen(case, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out), float64. Dropout acts on the input of W′ − W only."""
        weight, bias = self.formula.adapted(self.case, self.weight, self.bias, dict(self.trainable.items()))
        p = self.case.option("dropout", 0.0)
        if not (p and self.training):
            return linear(x, weight, bias)
        return linear(x, self.weight, bias) + linear(dropout(x, p), weight - self.weight)


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A formula as an implementation."""

    formula: Formula
    name: str = "closed form"

    def missing(self) -> str | None:
        """Always here."""
        return None

    def refuses(self, case: Case) -> str | None:
        """float64 only: it is the oracle, not a competitor in rounding."""
        return None if case.dtype == "float64" else "the closed form runs in float64 only"

    def build(self, case: Case, problem: Problem) -> Subject:
        """A subject at the formula's init; its numbers come from the case, not from torch's generator."""
        module = Dense(case, problem, self.formula)
        tensors = dict(module.trainable.items()) | module.frozen
        return Subject(module, module, {name: Entry(name) for name in tensors}, tensors, self.formula.shapes(case, problem.weight))

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

    def jittered(name: str, tensor: Tensor, draw: int) -> Tensor:
        return tensor * (1 + 2.0**-24 * signs(case.seed, "jitter", draw, name, shape=tuple(tensor.shape)))

    exact = case.but(dtype="float64", mode="train", adapter_dtype=None, options={"dropout": 0.0})

    def trace(at: Problem) -> dict[str, Tensor]:
        return run(ClosedForm(formula).build(exact, at), exact, at, at.parameters)

    plain = trace(problem)
    kappa = dict.fromkeys(plain, 1.0)
    for draw in range(draws):
        moved = Problem(
            x=jittered("x", problem.x, draw),
            weight=jittered("weight", problem.weight, draw),
            bias=None if problem.bias is None else jittered("bias", problem.bias, draw),
            parameters={name: jittered(name, value, draw) for name, value in problem.parameters.items()},
            cotangent=problem.cotangent,
            effect=problem.effect,
        )
        for name, value in trace(moved).items():
            norm = plain[name].norm()
            change = float((value - plain[name]).norm() / norm) if norm > 0 else 0.0
            kappa[name] = max(kappa[name], change / 2.0**-24)
    return kappa
