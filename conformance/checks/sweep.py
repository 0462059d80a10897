"""Shapes that nobody thought of."""

from conformance.check import check
from conformance.search import at, worst
from conformance.trial import Trial
from refs.case import Case

EXAMPLES, LARGEST = 20, 40  # in the default run; `python -m conformance search` goes on for as long as it is told


@check(needs_reference=True)
def shape_sweep(trial: Trial) -> None:
    """On generated shapes, ranks, spectra and states, the same ones every time, output and gradients are the reference's in float64; the largest error of each is shown."""
    if trial.only and trial.only.startswith("Case("):
        trial.measured += at(trial, Case.parse(trial.only))
        return
    trial.measured += worst(trial, examples=EXAMPLES, largest=LARGEST)
    if not trial.measured:
        trial.not_applicable("no generated case can be built by both")
