"""Shapes that nobody thought of."""

from conformance.check import check
from conformance.checks.search import SWEEP, at, worst
from conformance.trial import Trial
from refs.case import Case

EXAMPLES = 20  # in the default run; `python -m conformance search` draws thousands


@check(needs_reference=True)
def shape_sweep(trial: Trial) -> None:
    """On generated shapes, ranks, spectra and states, the same ones every time, output and gradients are the reference's in float64; the largest error of each is shown."""
    if trial.only and trial.only.startswith("Case("):
        trial.at = Case.parse(trial.only)
        trial.measured += at(trial, trial.at)
        return
    if trial.truth.is_fixed:
        trial.not_applicable("its cases are those it was recorded on")
        return
    trial.measured += worst(trial, SWEEP, examples=EXAMPLES)
    if not trial.measured:
        # A candidate's own refusal is no evidence for it. Of another seed, as generated cases are: recorded traces have the grid's.
        never = all(trial.truth.refuses(case.but(seed=case.seed + 1)) for case in trial.suite.cases)
        trial.not_applicable("no generated case can be built by both", evidence=never)
