"""The numbers of a case: weight, input, parameters, cotangent. Everybody who runs the case gets the same."""

import functools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import linear

from refs import given, minilm, recorded
from refs.calibration import Batch, forget_batches
from refs.case import Case
from refs.formula import Decomposed, Drawn, Exactly, Formula, Normal, Tensors, Uniform
from refs.numbers import normal, spectrum, uniform
from refs.threads import one_thread

EFFECT = 0.3  # how far the perturbed adapter moves the output, relative to its norm


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """float64 tensors whose values the case's dtype can hold.

    frozen: the frozen tensors that every implementation is given, in the states that copy them.
    effect: ‖y − y₀‖/‖y_base‖ of the closed form in float64, without dropout; y₀ is y_base, or, of a start
    that is far from it and stays so, the start's output. data: for methods that start from some.
    """

    x: Tensor  # (*batch, d_in)
    weight: Tensor  # (d_out, d_in)
    bias: Tensor | None  # (d_out,)
    parameters: Tensors
    cotangent: Tensor  # (*batch, d_out)
    effect: float
    frozen: Tensors = field(default_factory=dict)
    data: tuple[Batch, ...] = ()


def rounded(tensor: Tensor, case: Case) -> Tensor:
    """To the nearest number the case's dtype can hold."""
    return tensor.to(case.torch_dtype).to(torch.float64)


def base(case: Case) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weight, bias and input of a case, before any adapter. The same tensors for every caller: copy before you write."""
    return _base(case.numbers.but(state="init", data=""))


@functools.lru_cache(maxsize=512)
def _base(case: Case) -> tuple[Tensor, Tensor | None, Tensor]:
    if recording := recorded.of(case):  # exactly what was recorded, not what float32 can hold of it
        told = {name: rounded(recording.tensors[name], case) for name in ("weight", "bias", "x") if name in recording.tensors}
        return told["weight"], told.get("bias"), told["x"]
    if brought := given.of(case):
        weight, bias, x = brought.weight.double(), None if brought.bias is None else brought.bias.double(), brought.x.double()
        if (*case.batch, case.d_in) != x.shape or case.bias != (bias is not None):
            raise ValueError(f"{case.weight} has input {tuple(x.shape)} and bias {bias is not None}; the case says {case!r}")
    elif case.weight.startswith("minilm:"):
        name = case.weight.removeprefix("minilm:")
        module, seen = minilm.model().get_submodule(name), minilm.activations(name)
        assert isinstance(module, torch.nn.Linear)
        weight, bias = module.weight.detach().double(), module.bias.detach().double() if case.bias else None
        x = seen[tuple(map(slice, case.batch[:2]))].double()
        if (case.d_out, case.d_in) != weight.shape or (*case.batch, case.d_in) != x.shape:
            raise ValueError(f"{name} is {tuple(weight.shape)} with input {tuple(seen.shape)}; the case says {case!r}")
    else:
        weight = _weight(case)
        bias = normal(case.seed, "bias", shape=(case.d_out,)) if case.bias else None
        x = normal(case.seed, "x", shape=(*case.batch, case.d_in))
    # The base is what float32 can hold even in float64: some references can only be built in float32 and then cast.
    coarse = case.but(dtype="float32") if case.dtype == "float64" else case
    of_weight, of_bias, of_x = case.scales
    return rounded(of_weight * weight, coarse), None if bias is None else rounded(of_bias * bias, coarse), rounded(of_x * x, case)


def _weight(case: Case) -> Tensor:
    """(d_out, d_in) of the case's kind; singular values of order one."""
    d_out, d_in, k = case.d_out, case.d_in, min(case.d_out, case.d_in)
    match case.weight:
        case "random":
            return normal(case.seed, "weight", shape=(d_out, d_in)) / math.sqrt(d_in)
        case "decay":
            values = 4 * 16.0 ** -(torch.arange(k) / max(k - 1, 1))
        case "cliff":
            values = 4 * 16.0 ** -(torch.arange(k) / max(k - 1, 1)) * torch.where(torch.arange(k) < (case.rank or 2), 1.0, 2.0**-12)
        case "gap":
            values = torch.where(torch.arange(k) < (case.rank or 2), 4.0, 0.5) + torch.linspace(0.2, 0, k)
        case "flat":
            values = torch.ones(k)
        case "deficient":
            values = torch.where(torch.arange(k) < (k + 1) // 2, 1.0, 0.0) * torch.linspace(2, 1, k)
        case kind:
            raise ValueError(
                f"unknown weight kind {kind!r}; known: random, decay, cliff, gap, flat, deficient, minilm:MODULE, recorded:NAME"
            )
    return spectrum(case.seed, "weight", d_out=d_out, d_in=d_in, values=values.double())


def start(case: Case, formula: Formula, weight: Tensor) -> Tensors:
    """The trainables at init, drawn from the formula's own description."""
    values = {}
    for name, init in formula.begin(case, weight).inits.items():
        match init:
            case Exactly(value) | Decomposed(value) | Drawn(value):
                values[name] = value.double().clone()  # the formula keeps its own
            case Uniform(bound, shape, copies):
                drawn = (shape[0] // copies, *shape[1:])
                values[name] = ((uniform(case.seed, "init", name, shape=drawn) * 2 - 1) * bound).repeat_interleave(copies, dim=0)
            case Normal(std, shape, mean):
                values[name] = normal(case.seed, "init", name, shape=shape) * std + mean
    return values


@functools.lru_cache(maxsize=256)
def _perturbed(case: Case, formula: Formula) -> Tensors:
    """Every trainable moved, so far that the output moves by `EFFECT`: the strength is raised, then bisected."""
    weight, bias, x = base(case)
    plain, unmoved = linear(x, weight, bias), _unmoved(case, formula)
    at_start = start(case, formula, weight)
    frozen = _copied(case, formula, weight)
    noise = {name: normal(case.seed, "noise", name, shape=tuple(value.shape)) for name, value in at_start.items()}

    def reaches(strength: float) -> bool:
        adapted, shifted = formula.adapted(case, weight, bias, formula.moved(case, at_start, noise, strength) | frozen)
        return bool((linear(x, adapted, shifted) - unmoved).norm() >= EFFECT * plain.norm())

    low, high = 0.0, 2.0**-8
    while not reaches(high) and high < 2.0**20:
        low, high = high, high * 4
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return formula.moved(case, at_start, noise, high)


def _unmoved(case: Case, formula: Formula) -> Tensor:
    """Where a move is measured from: the base layer's output, or the least moved adapter's where that is `EFFECT` away from it already."""
    weight, bias, x = base(case)
    plain = linear(x, weight, bias)
    if formula.identity(case):
        return plain
    at_start = start(case, formula, weight)
    none = {name: torch.zeros_like(value) for name, value in at_start.items()}
    least = formula.moved(case, at_start, none, 0.0) | _copied(case, formula, weight)
    output = linear(x, *formula.adapted(case, weight, bias, least))
    return output if (output - plain).norm() >= EFFECT * plain.norm() else plain


def _copied(case: Case, formula: Formula, weight: Tensor) -> Tensors:
    return dict(formula.begin(case, weight).frozen) if formula.copied else {}


def _parameters(case: Case, formula: Formula, weight: Tensor) -> Tensors:
    """The trainables in the case's state, before they are rounded to its dtype."""
    if case.state == "init":
        return start(case, formula, weight)
    moved = _perturbed(case.but(dtype="float64", state="perturbed"), formula)  # once for all dtypes
    if case.state in ("perturbed", "own"):
        return moved
    if case.state not in formula.states:
        raise ValueError(f"unknown state {case.state!r}; known: {', '.join(['init', 'perturbed', *formula.states])}")
    return formula.states[case.state](case, moved)


@functools.lru_cache(maxsize=1024)
def _problem(case: Case, formula: Formula) -> Problem:
    weight, bias, x = base(case)
    given, copied = _parameters(case, formula, weight), _copied(case, formula, weight)
    recording = recorded.of(case)
    told = recording if recording and recording.state == case.state else None
    if told:
        given, copied = _told(case, told.under("param"), given), _told(case, told.frozen, copied)
    parameters = {name: rounded(value, case) for name, value in given.items()}
    frozen = {name: rounded(value, case) for name, value in copied.items()}
    plain = linear(x, weight, bias)
    contribution = linear(x, *formula.adapted(case, weight, bias, parameters | frozen)) - _unmoved(case, formula)
    effect = float(contribution.norm() / plain.norm())
    # Random plus a part along the adapter's own contribution: purely random sums cancel and measure nothing (design: tolerances).
    cotangent = normal(case.seed, "cotangent", shape=tuple(plain.shape))
    if effect > 2.0**-20:  # below, the move is rounding noise
        along = contribution * (cotangent.norm() / contribution.norm())
        both = cotangent + along
        cotangent = both if both.norm() > along.norm() / 8 else cotangent - along  # a single output's two parts may cancel
    # What float32 can hold: the same on every processor, in whatever order it sums.
    cotangent = told.tensors["g"] if told else rounded(cotangent, case.but(dtype="float32"))
    data = formula.data(case)
    return Problem(x, weight, bias, parameters, rounded(cotangent, case), effect, {} if case.state == "own" else frozen, data)


def _told(case: Case, recorded_: Tensors, wanted: Tensors) -> Tensors:
    """What was recorded in the place of what is wanted; ValueError where names or shapes are others."""
    shapes = [{name: tuple(value.shape) for name, value in side.items() if name in wanted} for side in (recorded_, wanted)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{case.weight} holds {shapes[0]}, the method has {shapes[1]}")
    return {name: recorded_[name] for name in wanted}


def problem(case: Case, formula: Formula) -> Problem:
    """The numbers of a case."""
    with one_thread():
        return _problem(case.numbers, formula)


def forget_problems() -> None:
    """Drop all numbers that were made."""
    for cached in (_base, _perturbed, _problem):
        cached.cache_clear()
    forget_batches()
