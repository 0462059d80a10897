"""The one generator of (variant, reference, check). It feeds pytest, `certify`, the command line and the pages."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from conformance.check import Check
from conformance.checks import CHECKS
from conformance.suite import Divergence, Reference, Suite
from conformance.terminal import cell_id
from conformance.trial import Trial
from conformance.verdict import PAIR, Measurement, Verdict, rounded_up
from refs.authors.layer import ELSEWHERE
from refs.installed import VERSION
from refs.subject import Implementation
from refs.threads import one_thread


@dataclass(frozen=True, eq=False)
class Job:
    """One cell of a verdict table, ready to be measured."""

    suite: Suite
    check: Check
    candidate: Implementation
    reference: Reference | None

    @property
    def id(self) -> str:
        """Unique in its suite, fit for `pytest -k`."""
        return cell_id(self.column, self.check.name)

    @property
    def column(self) -> str:
        """Of the verdict table: a reference, "itself", or a pair of references."""
        return self._trial().column

    def measure(self, only: str | None = None) -> list[Measurement]:
        """Run the check. Never raises: an exception is a measurement with the verdict `error`.

        only: the id, or for generated cases the `repr`, of the single case to run; the list is empty if the check does not have it.
        """
        trial = self._trial(only)
        if missing := (self.reference and self.reference.missing()) or self.candidate.missing():
            trial.untested(missing)
            return trial.measured
        if self.check.name != "mapping" and (reason := self._unmapped()):
            trial.untested(reason)
            return trial.measured
        try:
            with one_thread():
                self.check.function(trial)
        except Exception as error:  # a candidate may raise anything
            trial.raised(error)
        if only is not None:
            trial.measured = [m for m in trial.measured if only in (m.case_id, m.case)]
        elif not trial.measured:
            trial.untested("the check made no measurement")
        return self._with_divergences(trial.measured, whole=only is None)

    def _trial(self, only: str | None = None) -> Trial:
        return Trial(suite=self.suite, check=self.check.name, candidate=self.candidate, reference=self.reference, only=only)

    def _unmapped(self) -> str | None:
        """Why nothing can be compared: the map does not fit the candidate."""
        for reference in (self.reference,) if self.reference else self.suite.all_references:
            if problem := _mapping_problem(self.suite, self.candidate, reference):
                return f"mapping fails against {reference.name}: {problem}"
        return None

    def _with_divergences(self, measurements: list[Measurement], *, whole: bool) -> list[Measurement]:
        """Apply what is documented of this cell; what has to be there and is not fails as stale."""
        own = self.candidate is self.suite.candidate or self.candidate in self.suite.references
        for divergence in (self.suite if own else self.suite.for_others).divergences:
            if (divergence.check, divergence.reference) == (self.check.name, self.column):
                measurements = verified(divergence, measurements)
                elsewhere = any(m.reason == ELSEWHERE for m in measurements)  # then nothing says that it is gone
                if whole and not elsewhere and not any(_shows(divergence, m) for m in measurements):
                    measurements = measurements + self._gone(divergence)
        return measurements

    def _gone(self, divergence: Divergence) -> list[Measurement]:
        trial = self._trial()
        if divergence.must_be_there:
            trial.report(Verdict.FAILS, divergence.id, got="covers no measurement", should="a difference that is there: stale?")
        elif divergence.expected:
            trial.not_applicable(f"{divergence.id} holds for peft {divergence.holds_for}: fixed or not there yet in {VERSION}")
        return trial.measured


def _shows(divergence: Divergence, measurement: Measurement) -> bool:
    """Whether a measurement speaks of it; in a release of which nothing is known, only what differs does."""
    differs = measurement.verdict is Verdict.DIVERGES or measurement.verdict.is_red
    return divergence.covers(measurement) and (divergence.must_be_there or differs)


@functools.lru_cache(maxsize=256)
def _mapping_problem(suite: Suite, candidate: Implementation, reference: Reference) -> str | None:
    cell = Job(suite, CHECKS["mapping"], candidate, reference).measure()
    return next((f"{m.what}: {m.got}, should be: {m.should}" for m in cell if m.verdict.is_red), None)


def verified(divergence: Divergence, measurements: list[Measurement]) -> list[Measurement]:
    """Mark what a divergence explains; one that has to be there in its stated size and is not fails as stale."""
    low, high = divergence.size
    seen = []
    for m in measurements:
        if divergence.covers(m) and m.verdict is not Verdict.NOT_APPLICABLE:
            if m.verdict is Verdict.FAILS and low <= m.error <= high and math.isfinite(m.error):
                m = replace(m, verdict=Verdict.DIVERGES, reason=f"{divergence.id}: {divergence.reason} ({divergence.link})")
            elif divergence.must_be_there and m.verdict is not Verdict.ERROR:
                should = f"{divergence.id} says off by {low:g} … {high:g} {m.unit}: stale?"
                m = replace(m, verdict=Verdict.FAILS, got=m.got or f"off by {rounded_up(m.error)} {m.unit}", should=should)
        seen.append(m)
    return seen


def jobs(suite: Suite, candidate: Implementation | None = None) -> Iterator[Job]:
    """Every cell: references among themselves first, then the candidate (the suite's own by default) against each."""
    pairs = [] if candidate else list(itertools.combinations(suite.all_references, 2))
    if unknown := [d.id for d in suite.divergences if d.check not in CHECKS or d.reference not in _columns(suite)]:
        raise ValueError(
            f"{suite.variant}: divergence {', '.join(unknown)} names no cell; checks: {', '.join(CHECKS)}; references: {', '.join(_columns(suite))}"
        )
    for check in CHECKS.values():
        for truth, other in pairs if check.among_references else ():
            yield Job(suite, check, other, truth)
    for check in CHECKS.values():
        for reference in suite.all_references if check.needs_reference else (None,):
            yield Job(suite, check, candidate or suite.candidate, reference)


def _columns(suite: Suite) -> list[str]:
    names = [reference.name for reference in suite.all_references]
    return ["itself", *names, *(f"{other}{PAIR}{truth}" for truth, other in itertools.combinations(names, 2))]
