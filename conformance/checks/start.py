"""Where the parameters start."""

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from conformance import policy, runs
from conformance.check import check
from conformance.checks.decomposition import begin, decomposed_in_float32, decomposition, restored
from conformance.checks.distribution import follows, same_draw
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict
from refs.bases import base_layer
from refs.case import Case
from refs.formula import RESIDUAL, Decomposed, Drawn, Exactly, Formula, Normal, Uniform
from refs.problem import base, problem
from refs.threads import one_thread

POOLED = 4096  # numbers of a random start that are looked at together
LOWER = ("float32", "bfloat16", "float16")
SEEDS, DEPARTURE = 32, 2.0  # the spread of so many starts of at least four numbers is that far off once in a billion


@check(needs_reference=True)
def seed_parity(trial: Trial) -> None:
    """Both seeded immediately before their own init: every parameter is bit for bit the same, and another seed differs. A decomposition is as accurate as the reference's. Where no reference starts like the method, only that seeds decide."""
    comparable = [reference for reference in trial.suite.references if not reference.other_start]
    alone = trial.truth.name == "closed form"
    if alone and comparable:
        trial.not_applicable("the closed form's numbers come from the case, not from torch's generator")
        return
    if trial.other_start:
        trial.not_applicable(trial.other_start)
        return
    dtype = "float64" if alone else "float32"  # references draw in float32; where there is none to compare with, seeds still decide
    for case in trial.cases((c.but(dtype=dtype, state="init") for c in trial.suite.cases), guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        again = runs.build(trial.candidate, case, trial.formula)
        other = runs.build(trial.candidate, case.but(seed=case.seed + 1), trial.formula, problem(case, trial.formula))
        for name, init in begin(case, trial).inits.items():
            value = mine.read(name)
            if not value.equal(again.read(name)):
                trial.expect(False, name, case, "two builds with one seed differ", "the seed decides the init")
            elif isinstance(init, Decomposed) and not alone:
                decomposed_in_float32(trial, case, name, mine, theirs)
            elif not isinstance(init, Exactly | Decomposed) and value.equal(other.read(name)):
                trial.expect(False, name, case, f"seeds {case.seed} and {case.seed + 1} give the same values", "different values")
            elif alone:
                trial.expect(True, name, case, "", "")
            elif value.equal(theirs.read(name)) or trial.subject.reseeds:
                trial.judge(name, case, same_draw(trial, value, theirs.read(name)))
            else:
                trial.untested(f"{name}: pass `reset`, the layer's own init to be seeded immediately before it", case)


@check(needs_reference=True, among_references=True)
def init(trial: Trial) -> None:
    """Parameters start at the values, or in the distribution, that the method says; frozen tensors hold what they are derived from."""
    if trial.other_start:
        trial.not_applicable(trial.other_start)
        return
    for case in trial.cases((c.but(state="init") for c in trial.suite.cases), guarded=False):
        numbers = problem(case, trial.formula)
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        at_start = begin(case, trial)
        decomposed = at_start.decomposed if trial.formula.copied or trial.formula.takes_data(case) else {}
        for name in trial.formula.shapes(case, numbers.weight):
            if name not in mine.map or name in decomposed:
                continue
            if isinstance(start := at_start.inits.get(name), Uniform | Normal | Drawn):
                trial.judge(name, case, follows(_draws(trial, case, name, POOLED // math.prod(start.shape)), start))
            else:
                n = max(case.d_in, case.d_out)
                trial.judge(name, case, policy.same_function(mine.read(name), theirs.read(name), n=n, kappa=1.0))
        if decomposed:
            decomposition(trial, case, mine, theirs)
        if trial.formula.residual and trial.formula.identity(case) and trial.truth.name == "closed form":
            for low in (case.but(dtype="float32"), case.but(dtype="bfloat16")):
                if reason := trial.candidate.refuses(low):
                    trial.not_applicable(reason, low, evidence=trial.is_among_references)
                else:
                    restored(trial, low)


def _draws(trial: Trial, case: Case, name: str, seeds: int) -> list[Tensor]:
    """What the candidate starts with for several seeds: one small tensor alone says little about a distribution."""
    # Layers that are large, or decompose their weight, are dear to build, and the first of the grid starts like the others.
    dear = case.weight.startswith("minilm:") or (trial.formula.copied and case.id != trial.suite.cases[0].but(state="init").id)
    most = 1 if trial.is_replayed else 4 if dear else POOLED
    return [runs.started(trial.candidate, case, trial.formula, n)[name] for n in range(min(max(seeds, 1), most))]


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
    identical = [case for case in trial.suite.cases if trial.formula.identity(case)]
    for case in (case for case in trial.suite.cases if case not in identical):
        if trial.formula.departure and not case.weight.startswith("minilm:"):
            _departs(trial, case.but(state="init"))
        elif not trial.formula.departure:
            trial.not_applicable("this start is not meant to be the identity", case)
    cases = (
        case.but(state="init", mode=mode, dtype=dtype, adapter_dtype=adapter)
        for case in identical
        for mode in ("train", "eval")
        for dtype, adapter in (("float64", None), *((d, None) for d in LOWER), ("bfloat16", "float32"))
    )
    for case in trial.cases(cases, guarded=False):
        output, plain = runs.at_own_init(trial.candidate, case, trial.formula)["output"], base_output(case, trial)
        if not torch.isfinite(output).all() and (reason := _nobody_is_finite(trial, case)):
            trial.judge("output", case, Judgement(Verdict.NOT_APPLICABLE, reason=reason))
        else:
            terms = summed_sizes(case, trial.formula)
            trial.judge("output", case, policy.another_order(output, plain, terms, n=case.d_in))


def _departs(trial: Trial, case: Case) -> None:
    """A start that is nearly zero adds what its spread says, over many seeds."""
    assert trial.formula.departure
    for one in trial.cases([case], guarded=False):
        numbers = problem(one, trial.formula)
        plain = linear(numbers.x, numbers.weight, numbers.bias)
        outputs = [
            runs.at_own_init(trial.candidate, one.but(seed=one.seed + n), trial.formula, numbers)["output"] for n in range(SEEDS)
        ]
        size = float(torch.stack([(output - plain).square().mean() for output in outputs]).mean().sqrt())
        expected = trial.formula.departure(one, numbers.weight, numbers.x)
        ratio = max(size / expected, expected / size) if size else math.inf
        verdict = Verdict.EQUIVALENT if ratio <= DEPARTURE else Verdict.FAILS
        got, should = f"adds {size:.3g} (root mean square)", f"{expected:.3g}, as the start's spread says"
        trial.judge("size of the start", one, Judgement(verdict, ratio, DEPARTURE, "× the expected size", got, should))


def _nobody_is_finite(trial: Trial, case: Case) -> str | None:
    """What no reference can do is not asked."""
    others = [r for r in trial.suite.references if not r.missing() and not r.refuses(case)]
    finite = [r.name for r in others if torch.isfinite(runs.at_own_init(r, case, trial.formula)["output"]).all()]
    return f"{others[0].name} is not finite here either" if others and not finite else None


def summed_sizes(case: Case, formula: Formula) -> Tensor:
    """Of the terms that each output of the adapted layer is the sum of where the method starts: |x||W|ᵀ + |b| (…, d_out), with the sizes of
    the residual and of the part beside it where W is taken apart: in float32, by a decomposition that is off by roundings of ‖W‖, which
    is all that a row of zeros consists of (of a padding token, in a tied embedding).
    """
    weight, bias, x = base(case)
    added_up = weight.abs()
    if formula.residual:
        at_start = formula.begin(case, weight)
        start = {name: init.value.abs() for name, init in at_start.inits.items() if isinstance(init, Exactly | Decomposed)}
        parts = formula.adapted(case, weight, None, start | {RESIDUAL: at_start.frozen[RESIDUAL].abs()})[0]
        added_up = parts + (case.d_in + case.d_out) ** 0.5 * policy.U32 * weight.norm()
    return linear(x.abs(), added_up, None if bias is None else bias.abs())


def base_output(case: Case, trial: Trial) -> Tensor:
    """What the base layer alone gives."""
    numbers = problem(case, trial.formula)
    layer = base_layer(case, numbers.weight, numbers.bias)
    with torch.no_grad(), one_thread():
        output: Tensor = layer(numbers.x.to(case.torch_dtype))
    return output
