"""Where the parameters start."""

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from conformance import policy, runs
from conformance.check import check
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict
from refs.bases import base_layer
from refs.case import Case
from refs.formula import Exactly, Normal, Uniform
from refs.problem import problem
from refs.threads import one_thread

POOLED = 4096  # numbers of a random start that are looked at together
SIGMAS = 6.1  # a sample's variance is this many standard deviations off once in a billion
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
            if isinstance(start := inits.get(name), Uniform | Normal):
                trial.judge(name, case, follows(_draws(trial, case, name, POOLED // math.prod(start.shape)), start))
            else:
                n = max(case.d_in, case.d_out)
                trial.judge(name, case, policy.same_function(mine.read(name), theirs.read(name), n=n, kappa=1.0))


def _draws(trial: Trial, case: Case, name: str, seeds: int) -> list[Tensor]:
    """What the candidate starts with for several seeds: one small tensor alone says little about a distribution."""
    numbers = problem(case, trial.formula)
    cases = (case.but(seed=case.seed + offset) for offset in range(max(seeds, 1)))
    return [runs.build(trial.candidate, seeded, trial.formula, numbers).read(name) for seeded in cases]


def follows(values: list[Tensor], init: Uniform | Normal) -> Judgement:
    """Whether the values may come from the distribution: its bounds, its variance, and Kolmogorov's distance; of the
    rows that have copies, one each.
    """
    copies = getattr(init, "copies", 1)
    drawn = [value[::copies] if copies > 1 else value for value in values]
    copied = copies == 1 or all(value.equal(one.repeat_interleave(copies, dim=0)) for value, one in zip(values, drawn, strict=True))
    ordered = torch.cat([value.double().flatten() for value in drawn]).sort().values
    n, spread = len(ordered), float(ordered.square().mean().sqrt())
    match init:
        case Uniform(bound):
            cumulative = ((ordered / bound + 1) / 2).clamp(0, 1)
            words, std, kurtosis = f"uniform within ±{bound:.4g}", bound / math.sqrt(3), 9 / 5
            words += f", every row {copies} times" if copies > 1 else ""
            outside = float(ordered.abs().max()) > bound * (1 + 2.0**-20)
        case Normal(std):
            cumulative = (1 + torch.erf(ordered / (std * math.sqrt(2)))) / 2
            words, kurtosis, outside = f"normal with standard deviation {std:.4g}", 3.0, False
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = math.sqrt(n) * float(torch.maximum((cumulative - steps[:-1]).abs(), (cumulative - steps[1:]).abs()).max())
    deviation = abs((spread / std) ** 2 - 1) / math.sqrt((kurtosis - 1) / n)  # in standard deviations of a sample's variance
    wrong = outside or not copied or deviation > SIGMAS or any(tuple(value.shape) != init.shape for value in values)
    got = f"{tuple(values[0].shape)} within ±{float(ordered.abs().max()):.4g}, standard deviation {spread:.4g}"
    got += "" if copied else ", rows without copies"
    verdict = Verdict.FAILS if wrong or distance > KOLMOGOROV else Verdict.EQUIVALENT
    return Judgement(verdict, distance, KOLMOGOROV, "√n·D", got, f"{init.shape} {words}")


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
    """At its own init the adapted layer is the base layer in every dtype, in train and eval mode: bit for bit (identical), or up to the order of its sums (equivalent)."""
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
        output, plain = runs.at_own_init(trial.candidate, case, trial.formula)["output"], base_output(case, trial)
        judgement = policy.same_bits(output, plain)
        if judgement.verdict is Verdict.FAILS and output.dtype == plain.dtype and output.shape == plain.shape:
            judgement = _another_order(trial, case, output, plain, judgement)
        trial.judge("output", case, judgement)


def _another_order(trial: Trial, case: Case, output: Tensor, plain: Tensor, judgement: Judgement) -> Judgement:
    """Not the base layer's bits: the same sum in another order is equivalent, and what no reference can do is not asked."""
    if not torch.isfinite(output).all():
        others = [r for r in trial.suite.references if not r.missing() and not r.refuses(case)]
        finite = [r.name for r in others if torch.isfinite(runs.at_own_init(r, case, trial.formula)["output"]).all()]
        if others and not finite:
            return Judgement(Verdict.NOT_APPLICABLE, reason=f"{others[0].name} is not finite here either")
        return judgement
    numbers = problem(case, trial.formula)
    terms = linear(numbers.x.abs(), numbers.weight.abs(), None if numbers.bias is None else numbers.bias.abs())
    unit = policy.unit_roundoff(plain.dtype)
    error = float(((output.double() - plain.double()).abs() / terms).max()) / unit
    bound = 2 * math.sqrt(case.d_in)  # roundings of a sum of d_in terms, relative to |x|·|W|ᵀ + |b|
    if error > bound:
        return judgement
    return Judgement(Verdict.EQUIVALENT, error, bound, f"{policy.unit_name(plain.dtype)} of |x||W|")


def base_output(case: Case, trial: Trial) -> Tensor:
    """What the base layer alone gives."""
    numbers = problem(case, trial.formula)
    layer = base_layer(case, numbers.weight, numbers.bias)
    with torch.no_grad(), one_thread():
        output: Tensor = layer(numbers.x.to(case.torch_dtype))
    return output
