"""A reference that computes in float32, and says so: the candidate is asked for float64 by the closed form, the cell tells the dtype."""

from dataclasses import dataclass, replace

import pytest

from conformance.checks import CHECKS
from conformance.jobs import Job
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.test_lora_xs import SUITE
from conformance.verdict import Verdict, worst
from refs import lora_xs
from refs.closed_form import ClosedForm


@dataclass(frozen=True, eq=False)
class Coarse:
    """The closed form, its input and output rounded to float32, times a factor."""

    in_float32: bool = True
    factor: float = 1.0
    name: str = "coarse"
    version: str = "of this test"
    equation: str = "as the closed form's"
    other_start: None = None

    def missing(self):
        return None

    def refuses(self, case):
        return None if case.dtype == "float64" else "float64 only"

    def build(self, case, problem):
        exact = ClosedForm(lora_xs.FORMULA).build(case, problem)
        return replace(exact, call=lambda x: (exact.call(x.float().double()) * self.factor).float().double())


@dataclass(frozen=True, eq=False)
class Scaled(LiteLayer):
    """Lite's layer with a wrong scale."""

    factor: float = 1.0

    def build(self, case, problem):
        sound = super().build(case, problem)
        return replace(sound, call=lambda x: sound.call(x) * self.factor)


def measured(check, candidate, reference):
    references = tuple(side for side in (candidate, reference) if isinstance(side, Coarse))
    suite = replace(SUITE, cases=SUITE.cases[:1], references=references)
    return Job(suite, CHECKS[check], candidate, reference).measure()


@pytest.mark.parametrize("check", ["forward", "gradients"])
def test_it_is_equivalent_and_the_dtype_is_told(check):
    for candidate, reference in ((Scaled("lora_xs", lora_xs.FORMULA), Coarse()), (Coarse(), ClosedForm(lora_xs.FORMULA))):
        found = measured(check, candidate, reference)
        assert worst(found) is Verdict.EQUIVALENT
        assert any((m.reason, m.unit) == ("coarse computes it in float32", "u32") for m in found)


def test_one_that_does_not_say_so_fails():
    assert worst(measured("forward", Scaled("lora_xs", lora_xs.FORMULA), Coarse(in_float32=False))) is Verdict.FAILS


def test_one_that_is_further_off_than_float32_fails():
    assert worst(measured("forward", Scaled("lora_xs", lora_xs.FORMULA), Coarse(factor=1 + 1e-4))) is Verdict.FAILS


def test_the_candidate_is_asked_for_float64():
    """An error of the candidate that float32 would hide."""
    wrong = Scaled("lora_xs", lora_xs.FORMULA, factor=1 + 1e-10)
    assert worst(measured("forward", wrong, Coarse())) is Verdict.FAILS
