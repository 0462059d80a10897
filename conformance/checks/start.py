"""Where the parameters start."""

import math

import torch
from torch import Tensor

from conformance import policy, runs
from conformance.check import check
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict
from refs.bases import base_layer
from refs.case import Case
from refs.formula import Exactly, Init, Normal, Uniform
from refs.problem import problem
from refs.threads import one_thread

KOLMOGOROV = 3.3  # √n times the distance of two distributions exceeds this once in a billion
LOWER = ("float32", "bfloat16", "float16")


@check(needs_reference=True)
def seed_parity(trial: Trial) -> None:
    """Both seeded immediately before their own init: every parameter is bit for bit the same, and another seed differs."""
    if trial.truth.name == "closed form":
        trial.not_applicable("the closed form's numbers come from the case, not from torch's generator")
        return
    for case in trial.cases((c.but(dtype="float32", state="init") for c in trial.suite.cases), guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        again = runs.build(trial.candidate, case, trial.formula)
        other = runs.build(trial.candidate, case.but(seed=case.seed + 1), trial.formula, problem(case, trial.formula))
        for name, init in trial.formula.init(case, problem(case, trial.formula).weight).items():
            value = mine.read(name)
            if not value.equal(again.read(name)):
                trial.expect(False, name, case, "two builds with one seed differ", "the seed decides the init")
            elif not isinstance(init, Exactly) and value.equal(other.read(name)):
                trial.expect(False, name, case, f"seeds {case.seed} and {case.seed + 1} give the same values", "different values")
            elif value.equal(theirs.read(name)) or trial.subject.reseeds:
                trial.judge(name, case, policy.same_bits(value, theirs.read(name)))
            else:
                trial.untested(f"{name}: pass `reset`, the layer's own init to be seeded immediately before it", case)


@check(needs_reference=True, among_references=True)
def init(trial: Trial) -> None:
    """Parameters start at the values, or in the distribution, that the method says; frozen tensors hold what they are derived from."""
    for case in trial.cases((c.but(state="init") for c in trial.suite.cases), guarded=False):
        numbers = problem(case, trial.formula)
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        inits = trial.formula.init(case, numbers.weight)
        for name in trial.formula.shapes(case, numbers.weight):
            if name not in mine.map:
                continue
            value = mine.read(name)
            if isinstance(inits.get(name), Uniform | Normal):
                trial.judge(name, case, follows(value, inits[name]))
            else:
                n = max(case.d_in, case.d_out)
                trial.judge(name, case, policy.same_function(value, theirs.read(name), n=n, kappa=1.0))


def follows(value: Tensor, init: Init) -> Judgement:
    """Whether the values may come from the distribution: Kolmogorov's distance, and the bounds of a uniform one."""
    ordered = value.double().flatten().sort().values
    match init:
        case Uniform(bound, shape):
            cumulative = ((ordered / bound + 1) / 2).clamp(0, 1)
            words = f"uniform within ±{bound:.4g}"
            largest = float(ordered.abs().max())
            if largest > bound * (1 + 2.0**-20):
                return Judgement(Verdict.FAILS, largest / bound, 1.0, "× the bound", f"up to {largest:.4g}", words)
        case Normal(std, shape):
            cumulative = (1 + torch.erf(ordered / (std * math.sqrt(2)))) / 2
            words = f"normal with standard deviation {std:.4g}"
        case Exactly():
            raise TypeError("exact starts are compared with values")
    n = len(ordered)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = math.sqrt(n) * float(torch.maximum((cumulative - steps[:-1]).abs(), (cumulative - steps[1:]).abs()).max())
    verdict = Verdict.EQUIVALENT if distance <= KOLMOGOROV and tuple(value.shape) == shape else Verdict.FAILS
    got = f"{tuple(value.shape)} with standard deviation {float(ordered.std()):.4g}"
    return Judgement(verdict, distance, KOLMOGOROV, "√n·D", got, f"{shape} {words}")


@check(needs_reference=True, among_references=True)
def dead_parameters(trial: Trial) -> None:
    """At its own init, exactly the parameters without gradient that the reference has; away from it, none."""
    for case in trial.cases((c.but(state="init") for c in trial.suite.cases), guarded=False):
        mine, theirs = (runs.at_own_init(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        _same_dead(trial, case, _dead(mine, case, trial), _dead(theirs, case, trial))
    for case in trial.cases():
        _same_dead(trial, case, _dead(runs.at_values(trial.candidate, case, trial.formula), case, trial), set())


def _dead(trace: dict[str, Tensor], case: Case, trial: Trial) -> set[str]:
    return {name for name in problem(case, trial.formula).parameters if not trace[f"grad.{name}"].any()}


def _same_dead(trial: Trial, case: Case, got: set[str], should: set[str]) -> None:
    words = [f"without gradient: {', '.join(sorted(names)) or 'none'}" for names in (got, should)]
    trial.expect(got == should, "dead", case, *words)


@check(needs_reference=False)
def identity(trial: Trial) -> None:
    """At its own init the adapted layer is the base layer bit for bit, in every dtype, in train and eval mode."""
    if not trial.formula.identity:
        trial.not_applicable("the method does not start as the identity")
        return
    cases = (
        case.but(state="init", mode=mode, dtype=dtype, adapter_dtype=adapter)
        for case in trial.suite.cases
        for mode in ("train", "eval")
        for dtype, adapter in (("float64", None), *((d, None) for d in LOWER), ("bfloat16", "float32"))
    )
    for case in trial.cases(cases, guarded=False):
        plain = base_output(case, trial)
        trial.judge("output", case, policy.same_bits(runs.at_own_init(trial.candidate, case, trial.formula)["output"], plain))


def base_output(case: Case, trial: Trial) -> Tensor:
    """What the base layer alone gives."""
    numbers = problem(case, trial.formula)
    layer = base_layer(case, numbers.weight, numbers.bias)
    with torch.no_grad(), one_thread():
        output: Tensor = layer(numbers.x.to(case.torch_dtype))
    return output
