"""Layers that somebody brings along."""

import pytest
import torch

from refs import given, pissa
from refs.calibration import batches
from refs.case import Case
from refs.given import Given
from refs.numbers import normal
from refs.problem import base, forget_problems, problem

WEIGHT, BIAS, X = (normal(name, shape=shape).float() for name, shape in (("W", (6, 10)), ("b", (6,)), ("x", (1, 40, 10))))
CASE = Case(d_in=10, d_out=6, rank=3, alpha=5.0, batch=(1, 40), weight="given:mine", data="one")


@pytest.fixture
def brought():
    with given.here("mine", Given(WEIGHT, BIAS, X)):
        yield
    forget_problems()


@pytest.mark.usefixtures("brought")
def test_a_case_runs_on_its_numbers():
    assert all(got.equal(should.double()) for got, should in zip(base(CASE), (WEIGHT, BIAS, X), strict=True))
    assert problem(CASE, pissa.FORMULA).effect > 0.1
    tokens = {tuple(row) for row in X[0].double().tolist()}
    (batch,) = batches(CASE)
    assert {tuple(row) for row in batch.layer[0].tolist()} <= tokens
    assert CASE.is_given


@pytest.mark.usefixtures("brought")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_out": 7}, r"given:mine has a weight \(6, 10\); the case says \(7, 10\)"),
        ({"batch": (2, 40)}, r"given:mine has input \(1, 40, 10\) and bias True"),
        ({"bias": False}, r"given:mine has input \(1, 40, 10\) and bias True"),
        ({"weight": "given:yours"}, "given:yours: nobody brought that layer; here: mine"),
    ],
)
def test_another_layer_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        base(CASE.but(**changes))


def test_what_is_gone_is_forgotten():
    seen = []
    for factor in (1.0, 2.0):
        with given.here("mine", Given(factor * WEIGHT, BIAS, factor * X)):
            assert torch.equal(base(CASE)[0], factor * WEIGHT.double())
            seen.append(batches(CASE)[0].layer)
        forget_problems()
    assert seen[1].equal(2 * seen[0])
    with pytest.raises(ValueError, match="nobody brought that layer; here: none"):
        base(CASE)
