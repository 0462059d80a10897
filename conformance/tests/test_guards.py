"""Every way in which a case could hide a bug is reported; the suites' own cases hide none."""

import dataclasses
import importlib
import math
from unittest import mock

import pytest
import torch

from conformance.guards import LEAST_EFFECT, MOST_EFFECT, unguarded
from conformance.jobs import Job, jobs
from conformance.suite import Suite
from conformance.variants import known
from refs import delora, dora, lora
from refs.case import Case
from refs.formula import Exactly
from refs.problem import problem

SUITES = {variant: importlib.import_module(f"conformance.suites.test_{variant}").SUITE for variant in known()}
CASE = Case(d_in=24, d_out=16, rank=4, alpha=6.0, batch=(2, 5))


@pytest.mark.parametrize("variant", SUITES)
def test_the_cases_of_the_suites_are_guarded_in_every_state(variant):
    suite: Suite = SUITES[variant]
    assert suite.cases
    for case in suite.cases:
        for state in ("init", "perturbed", *suite.formula.states):
            assert unguarded(case.but(state=state), suite.formula) is None, (case.id, state)


@pytest.mark.parametrize("variant", SUITES)
@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"options": {"dropout": 0.3}}, {"mode": "eval"}], ids=repr)
def test_they_are_guarded_however_the_checks_change_them(variant, changes):
    for case in SUITES[variant].cases[:2]:
        assert unguarded(case.but(**changes), SUITES[variant].formula) is None, case.id


@pytest.mark.parametrize("formula", [lora.FORMULA, dora.FORMULA], ids=["lora", "dora"])
@pytest.mark.parametrize("state", ["init", "perturbed"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 1, "alpha": 6.0}, "rank 1: at least 2 separates rows from columns"),
        ({"rank": 1, "alpha": None}, "rank 1: at least 2 separates rows from columns"),
        ({"rank": 4, "alpha": 4.0}, "the scale is 1: 1 and alpha hide a wrong one"),
        ({"rank": 2, "alpha": 2}, "the scale is 1: 1 and alpha hide a wrong one"),
        ({"options": {"dropout": 0.0}}, "option dropout changes nothing here"),
        ({"options": {"rslora": False}}, "option rslora changes nothing here"),
        ({"options": {"init": "kaiming"}}, "option init changes nothing here"),
        ({"options": {"colour": "red"}}, "option colour changes nothing here"),
        ({"options": {"colour": "red", "rslora": True, "dropout": 0.0}}, "option colour, dropout changes nothing here"),
    ],
    ids=repr,
)
def test_a_blind_case_is_reported(formula, state, changes, reason):
    assert unguarded(CASE.but(state=state), formula) is None
    assert unguarded(CASE.but(state=state, **changes), formula) == reason


def test_the_scale_of_rank_one_is_reported_by_its_rank():
    """alpha/r = alpha, which hides a forgotten division, is possible at rank 1 alone."""
    for alpha in (1.0, 2.0, 6.0):
        assert str(unguarded(CASE.but(rank=1, alpha=alpha), lora.FORMULA)).startswith("rank 1")


def test_options_that_matter_are_not_reported():
    for options in ({"rslora": True}, {"init": "gaussian"}, {"dropout": 0.1}, {"rslora": True, "init": "gaussian"}):
        assert unguarded(CASE.but(options=options), lora.FORMULA) is None, options
    assert unguarded(CASE.but(alpha=None, options={"lambda0": 7.0}), delora.FORMULA) is None
    assert unguarded(CASE.but(alpha=None, options={"lambda0": 15.0}), delora.FORMULA) == "option lambda0 changes nothing here"


def test_an_effect_that_is_too_small_or_too_large_is_reported():
    still = dataclasses.replace(lora.FORMULA, moved=lambda case, start, noise, strength: start)
    assert unguarded(CASE, still) == "the adapter moves the output by 0.0e+00 of its norm, should be 0.01 … 10.0"
    assert unguarded(CASE.but(state="init"), still) is None  # at init there is nothing to move
    scaled = {f"by {factor:g}": factor for factor in (1e-3, 0.02, 0.06, 20.0, 60.0)}
    states = {name: lambda case, p, f=factor: p | {"lora_B": f * p["lora_B"]} for name, factor in scaled.items()}
    formula = dataclasses.replace(lora.FORMULA, states=states)
    blind = {name for name in states if unguarded(CASE.but(state=name), formula)}
    assert blind == {"by 0.001", "by 0.02", "by 60"}
    assert str(unguarded(CASE.but(state="by 60"), formula)).startswith("the adapter moves the output by 1.")


@pytest.mark.parametrize("bound", [LEAST_EFFECT, MOST_EFFECT])
def test_the_bounds_of_the_effect_belong_to_it(bound):
    def told(effect):
        formula = dataclasses.replace(lora.FORMULA)  # guards are cached by formula
        with mock.patch("conformance.guards.problem", lambda case, f: dataclasses.replace(problem(case, f), effect=effect)):
            return unguarded(CASE, formula)

    assert told(bound) is None
    assert [told(math.nextafter(bound, other)) is None for other in (0.0, math.inf)].count(False) == 1


def test_a_parameter_without_gradient_is_reported():
    idle = dict.fromkeys(("lora_idle", "lora_lazy"), Exactly(torch.ones(3, dtype=torch.float64)))

    def init(case, weight):
        return lora.init(case, weight) | idle

    def moved(case, start, noise, strength):
        return lora.moved(case, start, noise, strength) | {name: start[name] for name in idle}

    formula = dataclasses.replace(lora.FORMULA, init=init, moved=moved)
    assert unguarded(CASE, formula) == "lora_idle, lora_lazy has no gradient"
    assert unguarded(CASE.but(state="init"), formula) is None


def test_a_scale_of_one_by_rslora_is_reported():
    """alpha/√r = 1 hides a forgotten scale just as alpha/r = 1 does."""
    assert unguarded(CASE.but(rank=4, alpha=2.0, options={"rslora": True}), lora.FORMULA) is not None


def test_a_scale_of_one_by_default_is_reported():
    """A case that leaves alpha out has lora's default of 8: at rank 8 the scale is 1."""
    assert unguarded(CASE.but(rank=3, alpha=None), lora.FORMULA) is None
    assert unguarded(CASE.but(rank=8, alpha=None), lora.FORMULA) is not None


def test_a_method_that_is_never_scaled_is_told_from_one_that_this_rank_does_not_scale():
    by_rank = dataclasses.replace(lora.FORMULA, scale=lambda case: (case.alpha or 2.0) / case.rank)
    never = dataclasses.replace(lora.FORMULA, scale=lambda case: (case.alpha or case.rank) / case.rank)
    assert unguarded(CASE.but(rank=2, alpha=None), by_rank) == "the scale is 1: 1 and alpha hide a wrong one"
    assert unguarded(CASE.but(rank=2, alpha=None), never) is None


def test_an_option_that_changes_only_the_bias_matters():
    def adapted(case, weight, bias, p):
        return lora.adapted(case, weight, bias + 1.0 if case.option("lift", False) else bias, p)

    assert unguarded(CASE.but(options={"lift": True}), dataclasses.replace(lora.FORMULA, adapted=adapted)) is None


def test_an_option_that_adds_a_trainable_matters():
    def init(case, weight):
        extra = {"lora_b": Exactly(torch.zeros(16, dtype=torch.float64))} if case.option("lora_bias", False) else {}
        return lora.init(case, weight) | extra

    def moved(case, start, noise, strength):
        extra = {"lora_b": strength * noise["lora_b"]} if "lora_b" in start else {}
        return lora.moved(case, start, noise, strength) | extra

    def adapted(case, weight, bias, p):
        return lora.adapted(case, weight, bias + p["lora_b"] if "lora_b" in p else bias, p)

    formula = dataclasses.replace(lora.FORMULA, init=init, moved=moved, adapted=adapted)
    assert unguarded(CASE.but(options={"lora_bias": True}), formula) is None


def test_a_case_without_guards_is_untested_not_measured():
    blind = dataclasses.replace(SUITES["lora"], cases=(CASE.but(alpha=4.0),))
    cell: Job = next(job for job in jobs(blind) if job.id == "closed_form-forward")
    found = cell.measure()
    assert {m.verdict for m in found} == {"untested"}
    assert {m.reason for m in found} == {"the case has no guards: the scale is 1: 1 and alpha hide a wrong one"}


def test_edges_let_rank_one_pass_and_nothing_else():
    assert unguarded(CASE.but(rank=1), lora.FORMULA, edges=True) is None
    assert unguarded(CASE.but(alpha=4.0), lora.FORMULA, edges=True) == "the scale is 1: 1 and alpha hide a wrong one"
    assert unguarded(CASE.but(rank=1, options={"rslora": False}), lora.FORMULA, edges=True) == "option rslora changes nothing here"


def test_an_option_without_which_there_is_no_such_layer_matters():
    road = SUITES["road"].formula
    assert unguarded(Case(d_in=9, d_out=68, options=(("group_size", 4),)), road) is None
