"""What `forward` and `gradients` compare, on which cases, within which bound: with traces made up, so that no layer is run."""

import dataclasses
import math
from unittest import mock

import pytest
import torch

from conformance import runs
from conformance.checks import function
from conformance.policy import FUNCTION, QUALITY_NORM, U32, distance
from conformance.suites import test_lora, test_lora_xs
from conformance.trial import Trial
from refs import olora
from refs.case import Case
from refs.problem import problem

SUITE = test_lora.SUITE
PEFT = next(reference for reference in SUITE.references if reference.name == "peft")
EXACT = SUITE.all_references[0]
CASE = SUITE.cases[0].but(mode="train")  # d_in 24, d_out 16, 10 tokens
U64 = 2.0**-53
KAPPA = 2.0


def trial(*, candidate=SUITE.candidate, reference=EXACT, suite=SUITE, cases=(CASE,)):
    return Trial(suite=dataclasses.replace(suite, cases=cases), check="forward", candidate=candidate, reference=reference)


def trace(case, error=0.0, **more):
    """An output of ones and a gradient of ones, off by an error that is relative to the norm."""
    output = torch.ones(*case.batch, case.d_out, dtype=torch.float64)
    return {"output": output * (1 + error), "grad.x": torch.ones(4, dtype=torch.float64) * (1 + error)} | more


def compared(mine, theirs=None, *, e32=None, capped=False, asked=None, **options):
    """The measurements of `compare` for made-up traces. e32: the reference's float32 errors. asked: collects what is asked of caps."""
    of = options.pop("of", trial())
    theirs = theirs or trace(of.suite.cases[0])

    def at_values(side, case, formula):
        assert (case in of.suite.cases, formula) == (True, of.formula)
        return {of.candidate: mine, of.truth: theirs}[side]

    def kappa(case, formula):
        assert (case in of.suite.cases, formula) == (True, of.formula)
        return dict.fromkeys(theirs, KAPPA)

    def float32_errors(trial, case):
        assert (trial, case in of.suite.cases) == (of, True)
        return e32 or {}

    def is_capped(*arguments):
        (asked if asked is not None else []).append(arguments)
        return capped

    with (
        mock.patch.object(runs, "at_values", at_values),
        mock.patch.object(runs, "kappa", kappa),
        mock.patch.object(function, "float32_errors", float32_errors),
        mock.patch.object(function, "_is_capped", is_capped),
    ):
        function.compare(of, of.suite.cases, **{"outputs": True} | options)
    return of.measured


class TestStates:
    """Which states a case is run in."""

    def states(self, **more):
        return [case.state for case in function._states(trial(**more))]

    def test_start_perturbed_and_kinks(self):
        formula = dataclasses.replace(SUITE.formula, states={"clamped": lambda case, p: p})
        kinked = dataclasses.replace(SUITE, formula=formula)
        real = CASE.but(weight="minilm:encoder.layer.3.attention.self.query")
        assert self.states() == ["init", "perturbed"]
        assert self.states(suite=kinked) == ["init", "perturbed", "clamped"]
        assert self.states(suite=kinked, cases=(real,)) == ["init", "perturbed"]
        assert self.states(suite=kinked, cases=(CASE, real)) == ["init", "perturbed", "clamped", "init", "perturbed"]

    def test_own_factors_are_compared_with_what_is_exact_where_signs_are_free(self):
        suite = test_lora_xs.SUITE
        exact = suite.all_references[0]
        assert self.states(suite=suite, candidate=suite.candidate, reference=exact)[-1] == "own"
        other = next(reference for reference in suite.references if reference.name != "closed form")
        assert "own" not in self.states(suite=suite, candidate=suite.candidate, reference=other)
        among = Trial(suite=suite, check="forward", candidate=other, reference=exact)
        assert "own" not in [case.state for case in function._states(among)]

    def test_nothing_but_the_state_changes(self):
        assert [case.but(state=CASE.state) for case in function._states(trial())] == [CASE, CASE]


class TestCompare:
    """float64: names, bounds, missing gradients, casts."""

    @pytest.mark.parametrize(
        ("case", "n"),
        [(CASE, 24), (CASE.but(d_in=4), 16), (CASE.but(batch=(5, 20)), 100), (CASE.but(batch=(3, 7)), 24)],
        ids=["d_in", "d_out", "tokens", "fewer tokens"],
    )
    def test_the_bound_grows_with_the_longest_sum_and_the_sensitivity(self, case, n):
        bound = FUNCTION * math.sqrt(n) * KAPPA
        with mock.patch("conformance.trial.unguarded", return_value=None):
            for factor, verdict in ((0.9, "equivalent"), (1.1, "fails")):
                [m] = compared(trace(case, error=factor * bound * U64), of=trial(cases=(case,)))
                assert (m.what, m.verdict) == ("output", verdict)
                assert m.bound == pytest.approx(bound, rel=1e-15)

    def test_the_reference_s_float32_error_widens_its_own_tensor_only(self):
        for e32, factor in (({"output": 8 * U32}, 8), ({"grad.x": 8 * U32}, KAPPA)):
            [m] = compared(trace(CASE, error=1e-15), e32=e32)
            assert m.bound == pytest.approx(FUNCTION * math.sqrt(24) * factor, rel=1e-15)

    def test_outputs_or_everything_else(self):
        mine, theirs = trace(CASE) | {"grad.A": torch.zeros(2)}, trace(CASE) | {"grad.A": torch.zeros(2)}
        assert [m.what for m in compared(mine, theirs, outputs=True)] == ["output"]
        assert [m.what for m in compared(mine, theirs, outputs=False)] == ["grad.x", "grad.A"]

    def test_a_missing_gradient_fails_and_the_others_are_compared(self):
        mine, theirs = trace(CASE), {"output": torch.ones(1), "grad.A": torch.zeros(2, 3)} | trace(CASE)
        missing, there = compared(mine, theirs, outputs=False)
        assert (missing.verdict, missing.what, missing.case_id) == ("fails", "grad.A", CASE.id)
        assert (missing.got, missing.should) == ("output (2, 5, 16), so no gradient", "float32 (2, 3)")
        assert (there.verdict, there.what, there.case_id) == ("identical", "grad.x", CASE.id)

    def test_only_the_cases_it_is_given(self):
        other = CASE.but(seed=CASE.seed + 1)
        with mock.patch.object(function, "float32_errors", return_value={}):
            of = trial(cases=(CASE, other))
            function.compare(of, [other], outputs=True)
        assert [m.case_id for m in of.measured] == [other.id]

    def test_blind_cases_are_measured_only_if_unguarded(self):
        blind = CASE.but(alpha=4.0)
        assert [m.verdict for m in compared(trace(blind), of=trial(cases=(blind,)))] == ["untested"]
        assert [m.verdict for m in compared(trace(blind), of=trial(cases=(blind,)), guarded=False)] == ["identical"]

    def test_a_cast_is_capped_and_keeps_its_numbers(self):
        wrong, asked = trace(CASE, error=1e-8), []
        [plain] = compared(wrong, asked=asked, e32={"output": 4 * U32})
        [capped] = compared(wrong, capped=True, e32={"output": 4 * U32})
        assert (plain.verdict, capped.verdict, capped.reason) == ("fails", "capped", "hard-casts to float32")
        assert (capped.error, capped.bound, capped.unit) == (plain.error, plain.bound, "u64")
        [(of, case, name, error, float32_error)] = asked
        assert (of.candidate, case, name) == (SUITE.candidate, CASE, "output")
        assert error == distance(wrong["output"], trace(CASE)["output"])
        assert float32_error == 4 * U32
        asked.clear()
        compared(wrong, asked=asked)
        assert asked[0][-1] == KAPPA * U32

    def test_what_does_not_fail_is_no_cast(self):
        asked = []
        assert [m.verdict for m in compared(trace(CASE), capped=True, asked=asked)] == ["identical"]
        assert asked == []


class TestFloat32Errors:
    """The reference's own, on the same numbers."""

    def errors(self, case, reference=PEFT):
        runs.errors.cache_clear()
        seen = []

        def at_values(side, case, formula):
            seen.append((side, case.dtype))
            return trace(case, error=2.0**-10) | {"grad.dead": torch.ones(2)}

        exact = trace(case) | {"grad.dead": torch.zeros(2)}
        with (
            mock.patch.object(runs, "at_values", at_values),
            mock.patch.object(runs, "oracle", lambda side, case, formula: exact if case.dtype == "float32" else None),
        ):
            found = function.float32_errors(trial(reference=reference), case), seen
        runs.errors.cache_clear()
        return found

    def test_they_are_distances_from_the_oracle_where_that_is_not_zero(self):
        errors, seen = self.errors(CASE)
        assert errors == {"output": 2.0**-10, "grad.x": 2.0**-10}
        assert seen == [(PEFT, "float32")]

    def test_there_are_none_under_dropout_or_without_float32(self):
        assert self.errors(CASE.but(options={"dropout": 0.3})) == ({}, [])
        assert self.errors(CASE, EXACT) == ({}, [])
        assert self.errors(CASE.but(options={"dropout": 0.0}))[0]


class TestCapped:
    """Errors of float32's size that a change far below float32 does not reach."""

    def capped(self, error, float32_error=U32, unchanged=4, *, reached=("parameters", "x")):
        """reached: what the closed form depends on."""
        plain, again = torch.ones(4), torch.ones(4)
        again[unchanged:] += 1
        perturbed = problem(CASE.but(state="perturbed"), SUITE.formula)

        def at_values(side, case, formula):
            assert case.state == "perturbed"
            return {"output": plain}

        def run(side, case, numbers, values):
            assert case.state == "perturbed"
            moved = {"x": (numbers.x, perturbed.x)} | {name: (values[name], perturbed.parameters[name]) for name in values}
            nudged = {name for name, pair in moved.items() if not torch.equal(*pair)}
            assert nudged in ({"x"}, set(perturbed.parameters))
            for name in nudged:  # 2⁻⁴⁰: visible in float64, not in float32
                assert distance(*moved[name]) == pytest.approx(2.0**-40, rel=1e-3, abs=0)
                assert torch.equal(moved[name][0].float(), moved[name][1].float())
            if side is SUITE.candidate:
                return {"output": again}
            return {"output": plain + (("x" if nudged == {"x"} else "parameters") in reached)}

        with (
            mock.patch.object(runs, "at_values", at_values),
            mock.patch.object(runs, "build", lambda side, case, formula: side),
            mock.patch.object(function, "run", run),
        ):
            return function._is_capped(trial(), CASE.but(state="init"), "output", error, float32_error)

    def test_sizes(self):
        smallest, largest = U32 / 64, QUALITY_NORM * U32
        assert self.capped(smallest)
        assert self.capped(largest)
        assert not self.capped(math.nextafter(smallest, 0))
        assert not self.capped(math.nextafter(largest, 1))
        assert self.capped(10 * largest, float32_error=10 * U32)

    def test_most_of_the_tensor_has_to_stay(self):
        assert [self.capped(U32, unchanged=n) for n in range(5)] == [False, False, False, True, True]

    @pytest.mark.parametrize(("reached", "found"), [((), False), (("x",), True), (("parameters",), True)])
    def test_the_change_has_to_reach_the_closed_form(self, reached, found):
        """A gradient that does not depend on the parameters stays whoever computes it, in whatever dtype."""
        assert self.capped(U32, reached=reached) is found


def test_sensitivity_is_that_of_the_numbers_of_the_dtype():
    # At a start that is the identity but for rounding, whose size decides whether the cotangent has a part along it.
    case = Case(d_in=2, d_out=1, rank=1, alpha=48.0, bias=False, batch=(5,), weight="gap", state="init", seed=49, scales=(1, 1, 10))
    exact, single = (runs.kappa(case.but(dtype=dtype), olora.FORMULA)["grad.lora_B"] for dtype in ("float64", "float32"))
    assert exact > 1000 * single
