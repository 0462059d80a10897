"""Starts that are taken out of the weight: factors, products, spectra, and what is left of it."""

import torch
from torch import Tensor

from conformance import policy, runs
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict, rounded_up
from refs.case import Case
from refs.closed_form import aligned
from refs.formula import RESIDUAL, Beginning
from refs.problem import problem
from refs.subject import Subject


def begin(case: Case, trial: Trial) -> Beginning:
    """Where the method says that a case starts."""
    return trial.formula.begin(case, problem(case, trial.formula).weight)


def _own_start(trial: Trial, case: Case, subject: Subject) -> dict[str, Tensor]:
    """What a subject took from a decomposition, with its signs turned to the closed form's."""
    reference = begin(case, trial).decomposed
    return aligned(trial.formula, {name: subject.read(name) for name in reference if name in subject.map}, reference)


def decomposition(trial: Trial, case: Case, mine: Subject, theirs: Subject) -> None:
    """A start from a decomposition: factors with aligned signs, their product and spectra, what is left of the weight. Where the
    reference computes it in float32 it is `equivalent` to be right to float32; for a candidate that is `capped`.
    """
    reference = begin(case, trial).decomposed
    exact, kappa = aligned(trial.formula, reference, reference), runs.start_kappa(case, trial.formula)
    own, other = (_own_start(trial, case, subject) for subject in (mine, theirs))
    n = max(case.d_in, case.d_out)
    condition = trial.formula.condition(case, problem(case, trial.formula).weight)
    for name, value in own.items():
        if name not in other:
            continue
        instability = kappa[name] * condition * policy.U32  # of the published way of computing it, in float32
        judgement = policy.same_function(value, other[name], n=n, kappa=kappa[name], e32=instability)
        if judgement.verdict is Verdict.FAILS and value.shape == other[name].shape:
            judgement = _single(trial, value, other[name], exact[name], n, kappa[name] * condition, judgement)
        trial.judge(name, case, judgement)


def _single(trial: Trial, value: Tensor, other: Tensor, exact: Tensor, n: int, kappa: float, failed: Judgement) -> Judgement:
    """Whether the difference is that of float32, on whichever side."""
    bound = policy.float32_bound(n=n, kappa=kappa)
    mine, theirs = policy.distance(value, exact), policy.distance(other, exact)
    if max(mine, theirs) > bound:
        return failed
    precise = mine <= bound * policy.unit_roundoff(torch.float64) / policy.U32
    who = trial.candidate.name if not precise else trial.truth.name
    verdict = Verdict.EQUIVALENT if precise or trial.is_among_references else Verdict.CAPPED
    return Judgement(verdict, max(mine, theirs) / policy.U32, bound / policy.U32, "u32", reason=f"{who} computes it in float32")


def decomposed_in_float32(trial: Trial, case: Case, name: str, mine: Subject, theirs: Subject) -> None:
    """A start from a decomposition in float32 is no less accurate than the reference's. One that is right where the reference starts
    elsewhere says nothing by that: it has to be right to float32.
    """
    exact = begin(case, trial).decomposed[name]
    own, other = (_own_start(trial, case, subject)[name] for subject in (mine, theirs))
    kappa = runs.start_kappa(case, trial.formula)[name]
    condition = trial.formula.condition(case, problem(case, trial.formula).weight)
    judgement = policy.no_less_accurate(own, other, exact, kappa=kappa)
    bound = policy.float32_bound(n=max(case.d_in, case.d_out), kappa=kappa * condition)
    passes = judgement.verdict in (Verdict.IDENTICAL, Verdict.EQUIVALENT)
    if passes and min(policy.distance(other, exact), policy.distance(own, other)) > bound:
        error, reason = policy.distance(own, exact), f"{trial.truth.name} starts elsewhere (see init): judged by the formula"
        verdict = Verdict.EQUIVALENT if error <= bound else Verdict.FAILS
        got, should = f"off by {rounded_up(error / policy.U32)} u32", f"at most {bound / policy.U32:.2g} u32"
        judgement = Judgement(verdict, error / policy.U32, bound / policy.U32, "u32", got, should, reason)
    trial.judge(name, case, judgement)


def restored(trial: Trial, case: Case) -> None:
    """W_res and the part that was taken out give W back, up to one rounding of W_res and those of a product in float32: the part
    was taken out as it is stored.
    """
    numbers = problem(case, trial.formula)
    subject = runs.build(trial.candidate, case, trial.formula)
    start = {name: subject.read(name).double() for name in begin(case, trial).decomposed}
    weight = trial.formula.adapted(case, numbers.weight, None, numbers.parameters | start)[0]
    nothing = {RESIDUAL: torch.zeros_like(numbers.weight)}
    product = trial.formula.adapted(
        case, numbers.weight, None, numbers.parameters | {k: v.abs() for k, v in start.items()} | nothing
    )[0]
    rank = min(start["lora_A"].shape)
    allowed = policy.unit_roundoff(case.torch_dtype) * start[RESIDUAL].abs() + (rank + 4) * policy.U32 * (
        product + numbers.weight.abs()
    )
    error = float(((weight - numbers.weight).abs() / allowed).max())
    verdict = Verdict.EQUIVALENT if error <= 1 else Verdict.FAILS
    got = f"off by {rounded_up(error)} times one rounding of W_res"
    trial.judge(
        "W_res + s·B·A", case, Judgement(verdict, error, 1.0, "roundings of W_res", got, "W, but for one rounding of W_res")
    )
