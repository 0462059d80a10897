"""What a coefficient does to an adapter that has one."""

import torch
from torch import Tensor

from conformance import policy, runs
from conformance.check import check
from conformance.checks.function import compare
from conformance.checks.start import base_output
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict, rounded_up
from refs.case import Case
from refs.formula import Promise, Tensors
from refs.problem import Problem, problem
from refs.threads import one_thread

SWEEP = (-4.0, -1.0, -0.3, 0.0, 0.25, 0.7, 1.0, 3.0)


@check(needs_reference=True)
def steering(trial: Trial) -> None:
    """At every coefficient the output and gradients are the reference's, at 0 the layer is the base layer bit for bit, and the operator between the singular vectors keeps what the method promises of it."""
    if not trial.formula.steered:
        trial.not_applicable("the method has no coefficient")
        return
    cases = [case for case in dict.fromkeys(case.without("coeff") for case in trial.suite.cases) if not case.is_given]
    swept = [case.but(options={"coeff": coeff}) for case in cases for coeff in SWEEP]
    for outputs in (True, False):
        compare(trial, swept, outputs=outputs, guarded=False)
    if trial.truth.name != "closed form":
        return
    for case in trial.cases((c.but(options={"coeff": 0.0}, mode=mode) for c in cases for mode in ("train", "eval")), guarded=False):
        output = runs.at_values(trial.candidate, case, trial.formula)["output"]
        trial.judge("output at coefficient 0", case, policy.same_bits(output, base_output(case, trial)))
    for case in trial.cases(cases, guarded=False):
        for promise in trial.formula.promises:
            _kept(trial, case, promise)


def _kept(trial: Trial, case: Case, promise: Promise) -> None:
    """One promise, on the candidate's own operator."""
    numbers = problem(case, trial.formula)
    tensors = promise.at(numbers.parameters) | numbers.frozen
    steered = [case.but(options={"coeff": coeff}) for coeff in promise.coefficients]
    error, condition = promise.broken([_core(trial, one, numbers, tensors) for one in steered], tensors)
    bound = policy.FUNCTION * max(case.d_in, case.d_out) ** 0.5 * condition * policy.unit_roundoff(torch.float64)
    verdict = Verdict.EQUIVALENT if error <= bound else Verdict.FAILS
    unit = policy.unit_roundoff(torch.float64)
    got, should = f"off by {rounded_up(error / unit)} u64", f"at most {bound / unit:.2g} u64"
    trial.judge(promise.what, case, Judgement(verdict, error / unit, bound / unit, "u64", got, should))


def _core(trial: Trial, case: Case, numbers: Problem, tensors: Tensors) -> Tensor:
    """K (r, r) of a layer: what comes out for unit vectors, seen between the frozen factors."""
    subject = runs.build(trial.candidate, case, trial.formula, numbers)
    subject.write(tensors)
    subject.module.eval()
    with torch.no_grad(), one_thread():
        outputs = subject.call(torch.eye(case.d_in, dtype=torch.float64).reshape(1, case.d_in, case.d_in))[0]
    change = (outputs - (0 if numbers.bias is None else numbers.bias)).T - numbers.weight
    left, right = torch.linalg.pinv(tensors["lora_U"]), torch.linalg.pinv(tensors[trial.formula.right])
    core: Tensor = torch.diag(tensors["lora_S"]) + left @ change @ right
    return core
