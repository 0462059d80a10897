"""What becomes of a check: its measurements, an exception, nothing at all; and which checks there are of whom."""

import dataclasses
import itertools
from unittest import mock

import pytest

from conformance.check import Check
from conformance.checks import CHECKS
from conformance.jobs import Job, jobs
from conformance.suite import Divergence
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.test_lora import SUITE
from conformance.verdict import Verdict
from refs import lora
from refs.closed_form import ClosedForm

PEFT = next(reference for reference in SUITE.references if reference.name == "peft")
ONE, OTHER = SUITE.cases[:2]
TINY = dataclasses.replace(SUITE, references=(PEFT,), cases=(ONE, OTHER))
EXACT = TINY.all_references[0]


class MissingLayer(LiteLayer):
    """A candidate that is not there."""

    def missing(self):
        return "the layer is not installed"


class MissingReference(ClosedForm):
    """A reference that is not there."""

    def missing(self):
        return "the reference is not installed"


def reports_both(trial):
    for case in trial.suite.cases:
        trial.report(Verdict.IDENTICAL, "output", case)


def reports_nothing(trial):
    pass


def raises(trial):
    for _ in trial.cases(guarded=False):
        raise ZeroDivisionError("by nothing")


def job(function, *, suite=TINY, reference=EXACT, candidate=None, name=None):
    if name:
        function = mock.Mock(side_effect=function, __name__=name)
    return Job(suite, Check(function, True, False), candidate or suite.candidate, reference)


def divergence(**changes):
    fields = {"id": "known", "check": "reports both", "reference": "closed form", "what": "output", "where": lambda case: False}
    return Divergence(**fields | {"size": (0.0, 1.0), "reason": "why", "link": "where"} | changes)


def test_a_job_is_named_by_its_column_and_its_check():
    assert job(reports_both).id == "closed_form-reports_both"
    assert job(reports_both, reference=None).id == "itself-reports_both"
    assert job(reports_both, candidate=PEFT).id == "peft_vs_closed_form-reports_both"


def test_measurements_tell_who_was_judged_by_whom():
    found = job(reports_both).measure()
    assert [(m.verdict, m.what, m.case_id) for m in found] == [("identical", "output", ONE.id), ("identical", "output", OTHER.id)]
    assert {(m.variant, m.candidate, m.reference, m.check) for m in found} == {("lora", "lite", "closed form", "reports both")}


def test_an_exception_is_a_measurement_with_the_place_and_the_case():
    [m] = job(raises).measure()
    line = raises.__code__.co_firstlineno + 2
    assert (m.verdict, m.what, m.case_id) == ("error", "run", ONE.id)
    assert (m.got, m.should) == (f"ZeroDivisionError: by nothing (test_jobs.py:{line})", "no exception")


def test_the_place_is_where_it_was_raised_even_in_code_without_a_file():
    def outer(trial):
        exec(compile("\n1 / 0", "<planted>", "exec"))

    [m] = job(outer).measure()
    assert m.got == "ZeroDivisionError: division by zero (<planted>:2)"


@pytest.mark.parametrize(
    ("reference", "candidate", "reason"),
    [
        (EXACT, MissingLayer("lora", lora.FORMULA), "the layer is not installed"),
        (None, MissingLayer("lora", lora.FORMULA), "the layer is not installed"),
        (MissingReference(lora.FORMULA), TINY.candidate, "the reference is not installed"),
        (MissingReference(lora.FORMULA), MissingLayer("lora", lora.FORMULA), "the reference is not installed"),
    ],
)
def test_what_is_not_there_is_untested(reference, candidate, reason):
    [m] = job(raises, reference=reference, candidate=candidate).measure()
    assert (m.verdict, m.reason) == ("untested", reason)


def test_a_check_that_measures_nothing_is_untested():
    [m] = job(reports_nothing).measure()
    assert (m.verdict, m.reason) == ("untested", "the check made no measurement")


def test_one_case_can_be_asked_for_by_its_id_or_itself():
    for only in (OTHER.id, repr(OTHER)):
        [m] = job(reports_both).measure(only)
        assert m.case_id == OTHER.id
    assert job(reports_both).measure("no case") == []
    [m] = job(raises).measure(OTHER.id)
    assert (m.verdict, m.case_id) == ("error", OTHER.id)


@pytest.mark.parametrize(("reference", "which"), [(EXACT, "closed form"), (PEFT, "peft"), (None, "peft")])
def test_what_does_not_map_is_compared_with_nothing_but_its_map(reference, which):
    """The candidate alone is asked about both references' maps."""
    seen = []

    def problem(suite, candidate, reference):
        seen.append((suite, candidate))
        return "no such tensor" if reference.name == which else None

    with mock.patch("conformance.jobs._mapping_problem", problem):
        [m] = job(reports_both, reference=reference).measure()
        assert (m.verdict, m.reason) == ("untested", f"mapping fails against {which}: no such tensor")
        assert len(job(reports_both, reference=reference, name="mapping").measure()) == 2
        assert (
            len(job(reports_both, reference=EXACT if which == "peft" else PEFT).measure()) == 2
        )  # the other's map does not matter
    assert set(seen) == {(TINY, TINY.candidate)}


@pytest.mark.parametrize("candidate", [None, PEFT, LiteLayer("lora", lora.FORMULA)], ids=["own", "reference", "other"])
def test_a_divergence_that_covers_nothing_is_asked_of_the_suites_own_and_of_whole_runs(candidate):
    own = candidate is not None and candidate is not PEFT
    suite = dataclasses.replace(
        TINY, divergences=(divergence(reference="peft – closed form" if candidate is PEFT else "closed form"),)
    )
    found = job(reports_both, suite=suite, candidate=candidate).measure()
    if own:
        assert len(found) == 2
    else:
        [stale] = [m for m in found if m.verdict == "fails"]
        assert (stale.what, stale.got) == ("known", "covers no measurement")
        assert (stale.should, stale.case, stale.check) == ("a difference that is there: stale?", "", "reports both")
        assert len(found) == 3
    assert len(job(reports_both, suite=suite, candidate=candidate).measure(ONE.id)) == 1


def test_divergences_of_other_cells_are_not_asked_of_this_one():
    for changes in ({"check": "forward"}, {"reference": "peft"}):
        suite = dataclasses.replace(TINY, divergences=(divergence(**changes),))
        assert len(job(reports_both, suite=suite).measure()) == 2


def test_every_cell_is_a_job_references_among_themselves_first():
    made = list(jobs(TINY))
    among = [j for j in made if j.candidate is PEFT]
    assert made[: len(among)] == among
    assert [j.check for j in among] == [check for check in CHECKS.values() if check.among_references]
    assert {j.reference for j in among} == {EXACT}
    expected = [(c.name, r) for c in CHECKS.values() for r in (("closed form", "peft") if c.needs_reference else ("itself",))]
    assert [(j.check.name, j.reference.name if j.reference else "itself") for j in made[len(among) :]] == expected
    assert {j.candidate for j in made[len(among) :]} == {TINY.candidate}


def test_references_are_not_judged_again_for_another_candidate():
    other = LiteLayer("lora", lora.FORMULA, name="yours")
    assert {j.candidate for j in jobs(TINY, other)} == {other}


def test_three_references_make_three_pairs_and_the_closed_form_is_the_truth():
    third = dataclasses.replace(PEFT)
    suite = dataclasses.replace(TINY, references=(PEFT, third))
    pairs = {(j.reference, j.candidate) for j in jobs(suite) if j.candidate is not suite.candidate}
    assert pairs == set(itertools.combinations(suite.all_references, 2))


def test_a_divergence_of_no_cell_is_refused_with_all_there_are():
    names = divergence(id="one", check="froward"), divergence(id="two", check="forward", reference="peft 0.1")
    good = [divergence(check="forward", reference=r) for r in ("itself", "closed form", "peft", "peft – closed form")]
    list(jobs(dataclasses.replace(TINY, divergences=tuple(good))))
    with pytest.raises(ValueError, match="names no cell") as refused:
        list(jobs(dataclasses.replace(TINY, divergences=(*good, *names))))
    there = f"checks: {', '.join(CHECKS)}; references: itself, closed form, peft, peft – closed form"
    assert str(refused.value) == f"lora: divergence one, two names no cell; {there}"
