"""What the layer computes: its output and every gradient."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from conformance import policy, runs
from conformance.check import check
from conformance.checks.decomposition import decomposed_in_float32, decomposition
from conformance.checks.distribution import same_draw
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.formula import Decomposed, Exactly, Formula, Tensors
from refs.problem import Problem, problem
from refs.subject import Implementation, Trace, run, seed
from refs.threads import threads

DROPOUTS = (0.3, 0.6)  # in turn: one alone could be a constant
NUDGE = 1 + 2.0**-40  # far below float32, far above float64
LOWER = (("float32", None), ("bfloat16", None), ("float16", None), ("bfloat16", "float32"))


def _states(trial: Trial) -> Iterator[Case]:
    for case in trial.suite.cases:
        states = ["init", "perturbed"]
        if not case.is_given:  # kinks need neither a large layer nor a recorded one
            states += trial.formula.states
        if trial.formula.gauge and trial.truth.name == "closed form" and not trial.is_among_references:
            states.append("own")  # against what is exact: a reference's own factors may be those of float32
        for state in states:
            yield case.but(state=state)


@check(needs_reference=True, among_references=True)
def forward(trial: Trial) -> None:
    """The output is the reference's in float64, at init, perturbed and at the variant's kinks, in train and eval mode."""
    compare(trial, (case.but(mode=mode) for case in _states(trial) for mode in ("train", "eval")), outputs=True)


@check(needs_reference=True, among_references=True)
def gradients(trial: Trial) -> None:
    """The gradient of the input and of every parameter is the reference's in float64, at init, perturbed and at the kinks; the input's in eval mode, too."""
    compare(trial, _states(trial), outputs=False)
    compare(trial, (case.but(mode="eval") for case in trial.suite.cases), outputs=False)


@check(needs_reference=True)
def dropout(trial: Trial) -> None:
    """With dropout and the same seed, outputs and gradients are the reference's in train mode, outputs also where no gradient is asked for; eval mode drops nothing."""
    if not trial.suite.dropout:
        trial.not_applicable("the method has no dropout")
        return
    dropped = [case.but(options={"dropout": p}) for case, p in zip(trial.suite.cases, itertools.cycle(DROPOUTS), strict=False)]
    compare(trial, (case.but(mode=mode) for case in dropped for mode in ("train", "eval")), outputs=True)
    compare(trial, dropped, outputs=False)
    for case in trial.cases(dropped if trial.truth.name == "closed form" else ()):
        _without_gradients(trial, case)


def _without_gradients(trial: Trial, case: Case) -> None:
    """In train mode the same is dropped where no gradient is asked for, of the input or of anything."""
    numbers = problem(case, trial.formula)
    subject = runs.build(trial.candidate, case, trial.formula)
    subject.write(numbers.parameters | numbers.frozen)
    subject.module.train()
    with torch.no_grad(), threads(case.threads):
        seed(case)
        output = subject.call(numbers.x.to(case.device, case.torch_dtype, copy=True))
    kappa = runs.kappa(case, trial.formula)["output"]
    n = trial.formula.steps(case) + max(case.d_in, case.d_out, output.numel() // case.d_out)
    with_gradients = runs.at_values(trial.candidate, case, trial.formula)["output"]
    trial.judge("output without gradients", case, policy.same_function(output, with_gradients, n=n, kappa=kappa))


@check(needs_reference=True)
def accuracy(trial: Trial) -> None:
    """Below float64, and with an adapter wider than its base, outputs and gradients are no less accurate than the reference's own."""
    for case in _states(trial):
        if case.state == "own":  # factors are compared where they start
            continue
        # A start, and large layers, show nothing more in the coarser formats.
        formats = LOWER[:1] if case.state == "init" else LOWER[:2] if case.weight.startswith("minilm:") else LOWER
        compare_below(trial, [case.but(dtype=dtype, adapter_dtype=adapter) for dtype, adapter in formats])


@check(needs_reference=True)
def defaults(trial: Trial) -> None:
    """Built without any option, it has the reference's default rank, scale, start, dropout and dtype; the formula's, where no reference has any."""
    bare = trial.suite.bare
    elsewhere = any(not (reference.other_start or reference.refuses(bare)) for reference in trial.suite.references)
    if trial.other_start or (trial.truth.name == "closed form" and elsewhere):
        trial.not_applicable(trial.other_start or "the defaults are those of an implementation")
        return
    if not trial.subject.has_defaults:
        trial.not_applicable("a bare layer is always told its options")
        return
    for case in trial.cases((bare, bare.but(state="init"), bare.but(state="init", dtype="bfloat16")), guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        for name in mine.map:
            got, should = (policy.describe(side.read(name)) for side in (mine, theirs))
            trial.expect(got == should, f"type of {name}", case, got, should)
    compare(trial, (bare, bare.but(state="init")), outputs=True, guarded=False)
    exact = trial.truth.name == "closed form"  # which runs in float64, and draws its own numbers
    for case in trial.cases((bare.but(state="init", dtype="float64" if exact else "float32"),), guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        if exact:
            decomposition(trial, case, mine, theirs)
        for name, init in trial.formula.begin(case, problem(case, trial.formula).weight).inits.items():
            if exact and not isinstance(init, Exactly):
                continue
            if isinstance(init, Decomposed):
                decomposed_in_float32(trial, case, name, mine, theirs)
            else:
                trial.judge(f"start of {name}", case, same_draw(trial, mine.read(name), theirs.read(name)))


def compare(trial: Trial, cases: Iterable[Case], *, outputs: bool, guarded: bool = True) -> None:
    """The float64 leg of the policy on the output, or on everything but the output."""
    for case in trial.cases(cases, guarded=guarded):
        for beside in dict.fromkeys((case.but(threads=1), case)):  # references on one thread, and on as many as the candidate
            _compared(trial, case, runs.at_values(trial.truth, beside, trial.formula), outputs=outputs)


def _compared(trial: Trial, case: Case, theirs: Trace, *, outputs: bool) -> None:
    mine = runs.at_values(trial.candidate, case, trial.formula)
    kappa, e32 = runs.kappa(case, trial.formula), float32_errors(trial, case)
    started = _start_error(trial, case) if case.state == "own" else 1.0
    n = trial.formula.steps(case) + max(case.d_in, case.d_out, theirs["output"].numel() // case.d_out)
    for name, value in theirs.items():
        if (name == "output") is not outputs:
            continue
        if name not in mine:
            got = f"output {tuple(mine['output'].shape)}, so no gradient"
            trial.report(Verdict.FAILS, name, case, got=got, should=policy.describe(value))
            continue
        unstable = max(e32.get(name, 0.0), kappa[name] * started * policy.U32)
        judgement = policy.same_function(mine[name], value, n=n, kappa=kappa[name], e32=unstable)
        if judgement.verdict is Verdict.FAILS and _computes_in_float32(trial.candidate, trial.truth):
            judgement = _against_exact(trial, case, name, (mine[name], value), n, kappa[name]) or judgement
        elif judgement.verdict is Verdict.FAILS and _is_capped(
            trial, case, name, policy.distance(mine[name], value), max(kappa[name] * policy.U32, e32.get(name, 0.0))
        ):
            judgement = Judgement(Verdict.CAPPED, judgement.error, judgement.bound, judgement.unit, reason="hard-casts to float32")
        trial.judge(name, case, judgement)


def _start_error(trial: Trial, case: Case) -> float:
    """Where everybody has a start of his own: by how many roundings of ‖W‖ a decomposition is off, where κ moves every number by one
    (measured: 40 at 512 × 248), times what the published way of computing the start multiplies them by.
    """
    return float((case.d_in + case.d_out) ** 0.5 * trial.formula.condition(case, problem(case, trial.formula).weight))


def _computes_in_float32(*sides: Implementation) -> list[str]:
    """Names of those that say so: references that were recorded, and authors' layers."""
    return [side.name for side in sides if getattr(side, "in_float32", False)]


def _against_exact(trial: Trial, case: Case, name: str, values: tuple[Tensor, Tensor], n: int, kappa: float) -> Judgement | None:
    """Where a reference computes in float32: it is right to float32, and the other side to float64, against the closed form."""
    exact = runs.at_values(ClosedForm(trial.formula), case, trial.formula)[name]
    largest, bound = 0.0, policy.float32_bound(n=n, kappa=kappa)
    who: list[str] = []
    for side, value in zip((trial.candidate, trial.truth), values, strict=True):
        if policy.same_function(value, exact, n=n, kappa=kappa).verdict is not Verdict.FAILS:
            continue
        largest, who = max(largest, policy.distance(value, exact)), [*who, side.name]
    if not who or largest > bound or not set(who) <= set(_computes_in_float32(trial.candidate, trial.truth)):
        return None
    reason = f"{', '.join(who)} computes it in float32"
    return Judgement(Verdict.EQUIVALENT, largest / policy.U32, bound / policy.U32, "u32", reason=reason)


def compare_below(trial: Trial, cases: Iterable[Case]) -> None:
    """The leg of the policy below float64, on output and gradients."""
    for case in trial.cases(cases):
        mine, theirs = (runs.at_values(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        no_float64 = trial.truth.refuses(case.but(dtype="float64", adapter_dtype=None))  # it was recorded in one dtype
        exact = ClosedForm(trial.formula) if no_float64 or _computes_in_float32(trial.truth) else trial.truth
        truth, kappa = runs.oracle(exact, case, trial.formula), runs.kappa(case, trial.formula)
        for name, value in theirs.items():
            trial.judge(name, case, policy.no_less_accurate(mine[name], value, truth[name], kappa=kappa[name]))


def float32_errors(trial: Trial, case: Case) -> dict[str, float]:
    """The reference's own relative float32 error on the same numbers: the instability of its algorithm, which κ cannot see."""
    single = case.but(dtype="float32", threads=1)
    if trial.truth.refuses(single) or case.option("dropout", 0.0):  # dropout draws other masks in another dtype
        return {}
    return runs.errors(trial.truth, single, trial.formula)


def _is_capped(trial: Trial, case: Case, name: str, error: float, float32_error: float) -> bool:
    """Whether a tensor is right to float32 only because the candidate casts: a change far below float32, of the parameters or of the
    input, reaches the closed form's and not the candidate's.

    Asked of the perturbed state, where the change has to reach it: at init a bug of this size would look the same.
    """
    if trial.is_replayed:
        return False
    if not policy.U32 / 64 <= error <= policy.QUALITY_NORM * float32_error:  # a cast leaves errors of its own size
        return False
    moved = case.but(state="perturbed")
    numbers = problem(moved, trial.formula)
    larger = {key: value * NUDGE for key, value in numbers.parameters.items()}
    nudges = ((numbers, larger | numbers.frozen), (replace(numbers, x=numbers.x * NUDGE), numbers.parameters | numbers.frozen))
    exact = ClosedForm(trial.formula)
    return any(
        _stays(trial.candidate, moved, trial.formula, name, *nudge) and not _stays(exact, moved, trial.formula, name, *nudge)
        for nudge in nudges
    )


def _stays(side: Implementation, case: Case, formula: Formula, name: str, numbers: Problem, values: Tensors) -> bool:
    """Whether most of a tensor is bit for bit the same with other numbers."""
    again = run(runs.build(side, case, formula), case, numbers, values)
    return bool((again[name] == runs.at_values(side, case, formula)[name]).double().mean() > 0.5)
