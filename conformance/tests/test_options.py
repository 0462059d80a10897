"""No option is silently ignored: every option of every config is varied by a case, and the guards show that it matters."""

import dataclasses
import importlib

import pytest

import lite
from conformance.guards import unguarded
from conformance.variants import known

COMMON = {field.name for field in dataclasses.fields(lite.Config)}
SUITES = {name: importlib.import_module(f"conformance.suites.test_{name}").SUITE for name in known()}


def test_every_variant_has_a_suite_and_every_suite_a_variant():
    assert set(known()) == set(lite.VARIANTS)


@pytest.mark.parametrize("variant", known())
def test_every_own_option_is_varied_by_a_case_that_shows_it(variant):
    suite = SUITES[variant]
    own = {field.name for field in dataclasses.fields(lite.VARIANTS[variant].config)} - COMMON
    varied = {name for case in suite.cases for name, _ in case.options}
    varied |= {"r"} if suite.cases[0].rank else set()
    varied |= {"alpha"} if suite.cases[0].alpha else set()
    varied |= {"dropout"} if suite.dropout else set()
    refused = {name for _, given, _ in suite.refused for name in given}  # every value but the default
    assert varied <= own <= varied | refused


@pytest.mark.parametrize("variant", known())
def test_every_case_of_the_grid_has_its_guards(variant):
    suite = SUITES[variant]
    assert [reason for case in suite.cases if (reason := unguarded(case, suite.formula))] == []
    weights = {case.weight.partition(":")[0] for case in suite.cases}
    assert weights >= {"gap", "flat", "deficient", "minilm"}
    assert weights & {"random", "decay"}
    assert {bool(case.data) for case in suite.cases} == {bool(suite.bare.data), suite.formula.takes_data(suite.bare)}
    assert {case.layer for case in suite.cases} == {"linear", "conv1d", "other"}
    assert {case.call for case in suite.cases} == {"positional", "keyword"}
    assert {case.bias for case in suite.cases} == {True, False}
    assert {case.d_in == case.d_out for case in suite.cases} == {True, False}
