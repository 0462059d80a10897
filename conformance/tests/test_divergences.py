"""A documented divergence has to be there, in its size; one that is not fails as stale."""

import dataclasses
import math

import pytest
from torch.nn.functional import linear

from conformance.check import Check
from conformance.jobs import Job, jobs
from conformance.known_bugs import Bug, planted
from conformance.suite import Divergence
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.test_lora import SUITE
from conformance.terminal import failure_table, verdict_table
from conformance.verdict import Verdict, cells, of_variant, worst
from refs import lora
from refs.case import Case
from refs.installed import VERSION
from refs.problem import problem

BUG = Bug(
    id="scale", variant="lora", description="", effect="", source="", hidden_by="", where="lite.variants.lora",
    old="    s = scale(config)\n", new="    s = scale(config) * (1 + 1e-6)\n", red=frozenset(), message="",
)  # fmt: skip
CASE = SUITE.cases[0]
PEFT = next(reference for reference in SUITE.references if reference.name == "peft")
TINY = dataclasses.replace(SUITE, references=(PEFT,), cases=(CASE,))


def expected_error():
    """Of the output, in u64, under a scale that is off by 1e-6."""
    numbers = problem(CASE, lora.FORMULA)
    weight, bias = lora.adapted(CASE, numbers.weight, numbers.bias, numbers.parameters)
    output = linear(numbers.x, weight, bias)
    move = output - linear(numbers.x, numbers.weight, numbers.bias)
    return 1e-6 * float(move.norm() / output.norm()) / 2.0**-53


def divergence(**changes):
    """What documents the planted scale against the closed form."""
    error = expected_error()
    fields = {
        "id": "scale",
        "check": "forward",
        "reference": "closed form",
        "what": "output",
        "where": lambda case: case.state == "perturbed",
        "size": (0.99 * error, 1.01 * error),
        "reason": "the scale is off by 1e-6",
        "link": "https://example.org/issue/1",
    }
    return Divergence(**fields | changes)


def forward(*divergences, reference=None):
    """The measurements of the check `forward` of lite as it is now. A new candidate: runs are cached by candidate."""
    candidate = LiteLayer("lora", lora.FORMULA)
    suite = dataclasses.replace(TINY, candidate=candidate, divergences=divergences)
    return [
        m
        for job in jobs(suite)
        if job.check.name == "forward" and job.candidate is candidate and reference in (None, job.reference.name)
        for m in job.measure()
    ]


def by_state(measurements, state):
    found = [m for m in measurements if Case.parse(m.case).state == state]
    assert found
    return found


@pytest.fixture
def bug():
    with planted(BUG):
        yield


def test_without_a_divergence_the_bug_fails(bug):
    found = forward()
    assert {m.reference for m in found} == {"closed form", "peft"}
    assert {m.verdict for m in by_state(found, "perturbed")} == {"fails"}
    assert {m.verdict for m in by_state(found, "init")} <= {"identical", "equivalent"}
    assert of_variant(cells(found).values()) == "buggy"
    for m in by_state(found, "perturbed"):
        assert m.error == pytest.approx(expected_error(), rel=1e-3)


def test_a_documented_difference_diverges(bug):
    plain, found = forward(reference="closed form"), forward(divergence(), reference="closed form")
    covered = by_state(found, "perturbed")
    assert {m.verdict for m in covered} == {"diverges"}
    assert {m.reason for m in covered} == {"scale: the scale is off by 1e-6 (https://example.org/issue/1)"}
    assert [m.error for m in found] == [m.error for m in plain]  # the numbers stay
    assert by_state(found, "init") == by_state(plain, "init")
    assert worst(found) == "diverges"
    assert of_variant(cells(found).values()) == "faithful with documented divergence"
    table = verdict_table("lora", found)
    assert "diverges ≤ 2^" in table
    assert "  [1] scale: the scale is off by 1e-6 (https://example.org/issue/1)" in table


def test_it_excuses_its_own_reference_only(bug):
    found = forward(divergence())
    assert cells(found) == {("forward", "closed form"): "diverges", ("forward", "peft"): "fails"}
    assert of_variant(cells(found).values()) == "buggy"
    both = forward(divergence(), divergence(id="scale, peft", reference="peft"))
    assert cells(both) == {("forward", "closed form"): "diverges", ("forward", "peft"): "diverges"}


@pytest.mark.parametrize(
    "changes",
    [
        {"check": "gradients"},
        {"reference": "peft"},
        {"what": "out"},
        {"what": "grad.*"},
        {"where": lambda case: case.seed == 1},
        {"where": lambda case: case.state == "perturbed" and case.mode == "eval"},
    ],
    ids=["check", "reference", "part of a name", "other name", "no case", "half of the cases"],
)
def test_it_excuses_nothing_else(bug, changes):
    found = forward(divergence(**changes), reference="closed form")
    assert worst(found) == "fails"
    failing = [m for m in found if m.verdict == "fails" and m.case]
    assert failing
    assert not any("stale" in m.should for m in failing)


@pytest.mark.parametrize("factors", [(1.01, 2.0), (0.1, 0.99), (0.0, 1e-3), (1e3, math.inf)])
def test_another_size_fails_as_stale(bug, factors):
    low, high = (factor * expected_error() for factor in factors)
    found = by_state(forward(divergence(size=(low, high)), reference="closed form"), "perturbed")
    assert {m.verdict for m in found} == {"fails"}
    for m in found:
        assert m.should == f"scale says off by {low:g} … {high:g} u64: stale?"
        assert m.got.startswith("off by 2^")
    assert "stale?" in failure_table(found)


@pytest.mark.parametrize("size", [(0.99, 1.01), (0.0, 2.0)])
def test_a_divergence_that_has_vanished_fails_as_stale(size):
    low, high = (factor * expected_error() for factor in size)
    found = forward(divergence(size=(low, high)), reference="closed form")
    covered = by_state(found, "perturbed")
    assert {m.verdict for m in covered} == {"fails"}
    assert all("stale?" in m.should and m.got.startswith("off by ") for m in covered)
    assert {m.verdict for m in by_state(found, "init")} <= {"identical", "equivalent"}
    assert of_variant(cells(found).values()) == "buggy"


@pytest.mark.parametrize("releases", ["<0.1", ">=99"])
def test_in_a_release_that_it_is_not_told_of_it_may_be_gone(releases):
    found = forward(divergence(releases=releases), reference="closed form")
    assert not [m for m in found if m.verdict.is_red]
    (said,) = (m for m in found if m.verdict == "not applicable")
    assert said.reason == f"scale holds for peft {releases}: fixed or not there yet in {VERSION}"


def test_in_a_release_that_it_is_not_told_of_it_may_be_there(bug):
    found = forward(divergence(releases=">=99"), reference="closed form")
    assert worst(found) == "diverges"
    assert not any("fixed" in m.reason for m in found)


def test_in_a_release_that_it_is_told_of_it_has_to_be_there():
    found = forward(divergence(releases=f"<={VERSION}"), reference="closed form")
    assert {m.verdict for m in by_state(found, "perturbed")} == {"fails"}


def test_the_bounds_of_the_size_belong_to_it(bug):
    error = by_state(forward(reference="closed form"), "perturbed")[0].error
    for size in ((error, math.inf), (0.0, error)):
        assert "diverges" in {m.verdict for m in forward(divergence(size=size), reference="closed form")}


def test_a_divergence_between_references_is_asked_of_them():
    suite = dataclasses.replace(TINY, divergences=(divergence(reference="peft – closed form"),))
    found = {job.id: worst(job.measure()) for job in jobs(suite) if job.check.name == "forward"}
    assert found.pop("peft_vs_closed_form-forward") == "fails"
    assert set(found.values()) <= {"identical", "equivalent"}


# What a check may report, without running any layer.


def reporting(*reports, divergences):
    """The measurements of a check called `forward` that makes these reports."""

    def forward(trial):
        for verdict, more in reports:
            trial.report(verdict, "output", CASE, **more)

    suite = dataclasses.replace(TINY, divergences=divergences)
    return Job(suite, Check(forward, True, False), suite.candidate, suite.all_references[0]).measure()


def test_a_difference_of_structure_has_no_size_and_is_not_excused():
    [m] = reporting((Verdict.FAILS, {"error": math.inf, "got": "float32 (2,)"}), divergences=(divergence(),))
    assert (m.verdict, m.got) == ("fails", "float32 (2,)")
    assert "stale?" in m.should
    [m] = reporting((Verdict.IDENTICAL, {"error": 3.0, "unit": "u64"}), divergences=(divergence(),))
    assert (m.verdict, m.got) == ("fails", "off by 4 u64")  # what says nothing itself


@pytest.mark.parametrize("verdict", [Verdict.IDENTICAL, Verdict.EQUIVALENT, Verdict.CAPPED, Verdict.ERROR])
def test_only_what_fails_can_diverge(verdict):
    size = (0.0, math.inf)
    [m] = reporting((verdict, {"error": 5.0, "unit": "u64"}), divergences=(divergence(size=size),))
    assert m.verdict.is_red


def test_what_is_no_evidence_neither_shows_a_divergence_nor_makes_it_stale():
    shown = (Verdict.NOT_APPLICABLE, {"error": 5.0, "unit": "u64", "evidence": False, "reason": "ill-conditioned"})
    refused = (Verdict.NOT_APPLICABLE, {"reason": "peft does not take it"})
    there = (Verdict.FAILS, {"error": expected_error(), "unit": "u64"})
    found = reporting(shown, refused, there, divergences=(divergence(),))
    assert [m.verdict for m in found] == ["not applicable", "not applicable", "diverges"]


@pytest.mark.parametrize(
    "changes",
    [{"what": "outputs"}, {"where": lambda case: False}, {"reference": "peft 0.1"}, {"check": "froward"}],
    ids=["what", "where", "reference", "check"],
)
def test_a_divergence_that_covers_nothing_is_red(changes):
    """A misspelt or outdated entry would otherwise stand in the suite for ever."""
    suite = dataclasses.replace(TINY, candidate=LiteLayer("lora", lora.FORMULA), divergences=(divergence(**changes),))
    red = []
    try:
        found = [m for job in jobs(suite) if job.check.name == "forward" for m in job.measure()]
        red = [m for m in found if m.verdict.is_red]
    except ValueError as error:
        red = [error]
    assert red


def test_what_lite_documents_is_not_asked_of_another_s_layer():
    """A layer that does not share lite's divergence is no worse for it; one that does is excused like lite."""
    suite = dataclasses.replace(TINY, candidate=LiteLayer("lora", lora.FORMULA), divergences=(divergence(),))

    def of(candidate):
        chosen = [job for job in jobs(suite, candidate) if job.id == "closed_form-forward"]
        return worst(m for job in chosen for m in job.measure())

    with planted(BUG):
        assert of(LiteLayer("lora", lora.FORMULA, name="yours")) == "diverges"
    assert of(LiteLayer("lora", lora.FORMULA, name="yours")) == "equivalent"


def test_a_divergence_speaks_of_a_case():
    one = forward(reference="closed form")[0]
    for_every_case = divergence(where=lambda case: True)
    assert for_every_case.covers(one)
    assert not for_every_case.covers(dataclasses.replace(one, case="", case_id=""))
    assert not divergence(where=lambda case: case.d_in == 25).covers(one)


def test_the_expected_error_is_far_above_rounding():
    assert 1e8 < expected_error() < 1e10
