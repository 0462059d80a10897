"""Every leg of the policy just below and just above its bound, with tensors whose error is chosen exactly."""

import math

import pytest
import torch

from conformance.policy import (
    ILL_CONDITIONED,
    RATIO,
    U32,
    Judgement,
    another_order,
    describe,
    distance,
    exactly_zero,
    no_less_accurate,
    same_bits,
    same_function,
    same_output,
    structure,
    unit_name,
    unit_roundoff,
)
from conformance.verdict import Verdict

U64 = 2.0**-53
BELOW, ABOVE = 1 - 2.0**-5, 1 + 2.0**-5  # of a bound; powers of two, so that every dtype here holds the product


def unit(size, dtype=torch.float64, **errors):
    """(1, 0, 0 …): a vector of norm one in both norms, with errors at other places, `e3=0.1` at index 3."""
    vector = torch.zeros(size, dtype=dtype)
    vector[0] = 1
    for name, error in errors.items():
        vector[int(name[1:])] = error
        assert float(vector[int(name[1:])]) == error, "the dtype does not hold the error"
    return vector


def spread(size, dtype, error):
    """(1, e, e …)."""
    vector = torch.full((size,), error, dtype=dtype)
    assert float(vector[1]) == error
    vector[0] = 1
    return vector


class TestSameFunction:
    """float64: 8·√n·max(κ, e32/u32)·u64."""

    @pytest.mark.parametrize(
        ("n", "kappa", "e32", "bound"),
        [
            (1, 1.0, 0.0, 8),
            (16, 1.0, 0.0, 32),
            (64, 1.0, 0.0, 64),
            (16, 2.0, 0.0, 64),
            (16, 1.0, 4 * U32, 128),
            (16, 8.0, 4 * U32, 256),  # the larger of the two, not their product
            (16, 1.0, 0.5 * U32, 32),
            (4, 16.0, 16 * U32, 256),
        ],
    )
    def test_at_its_bound(self, n, kappa, e32, bound):
        reference = unit(5)
        for factor, verdict in ((BELOW, "equivalent"), (1.0, "equivalent"), (ABOVE, "fails")):
            judged = same_function(unit(5, e3=factor * bound * U64), reference, n=n, kappa=kappa, e32=e32)
            assert (judged.verdict, judged.error, judged.bound) == (verdict, factor * bound, bound)
            assert judged.unit == "u64"
            assert judged.evidence
            assert judged.should == f"at most {bound:.2g} u64"

    def test_the_error_is_that_of_the_whole_tensor(self):
        """Four errors of a quarter bound and one of half a bound are the same."""
        for shift, verdict in ((BELOW, "equivalent"), (ABOVE, "fails")):
            errors = {f"e{i}": shift * 4 * U64 for i in range(1, 5)}  # norm 8
            assert same_function(unit(9, **errors), unit(9), n=1, kappa=1.0).verdict == verdict

    def test_the_error_is_relative(self):
        for size in (2.0**-300, 1.0, 2.0**300):
            assert same_function(unit(3, e1=7 * U64) * size, unit(3) * size, n=1, kappa=1.0).verdict == "equivalent"
            assert same_function(unit(3, e1=9 * U64) * size, unit(3) * size, n=1, kappa=1.0).verdict == "fails"

    def test_the_same_bits_are_identical_whatever_the_condition(self):
        value = torch.tensor([0.1, -3.0], dtype=torch.float64)
        judged = same_function(value.clone(), value, n=4, kappa=1e9)
        assert (judged.verdict, judged.error, judged.evidence) == ("identical", 0, True)
        assert judged.bound == 8 * 2 * 1e9

    def test_an_oracle_of_zero_asks_for_zero(self):
        zero = torch.zeros(3, dtype=torch.float64)
        assert same_function(-zero, zero, n=1, kappa=1.0).verdict == "identical"
        judged = same_function(torch.tensor([0, 5e-324, 0], dtype=torch.float64), zero, n=1, kappa=1e6)
        assert judged.verdict == "fails"
        assert judged.should == "exactly zero"
        assert judged.evidence


class TestNoLessAccurate:
    """Below float64: 4 times the reference's error in the 2-norm, 8 times in the max norm, and no better than f·κ·u."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_the_norm_leg_at_its_bound(self, dtype):
        size, own = 65, 2.0**-5
        reference, oracle = unit(size, dtype, e1=own), unit(size)
        for factor, verdict in ((BELOW, "equivalent"), (1.0, "equivalent"), (ABOVE, "fails")):
            judged = no_less_accurate(unit(size, dtype, e7=factor * 4 * own), reference, oracle, kappa=1.0)
            assert (judged.verdict, judged.error, judged.bound, judged.unit) == (verdict, factor * 4, 4, RATIO)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_the_max_leg_at_its_bound(self, dtype):
        """The reference is off by a little everywhere; the candidate in one place, by as much in the 2-norm."""
        size, own = 65, 2.0**-5  # 2-norm 8 · own, max norm own
        reference, oracle = spread(size, dtype, own), unit(size)
        for factor, verdict in ((BELOW, "equivalent"), (1.0, "equivalent"), (ABOVE, "fails")):
            judged = no_less_accurate(unit(size, dtype, e7=factor * 8 * own), reference, oracle, kappa=1.0)
            assert (judged.verdict, judged.error, judged.bound) == (verdict, factor * 8, 8)

    def test_both_legs_can_fail_alone(self):
        size, own, oracle = 65, 2.0**-10, unit(65)
        wide = no_less_accurate(spread(size, torch.float32, 5 * own), spread(size, torch.float32, own), oracle, kappa=1.0)
        assert (wide.verdict, wide.bound, wide.error) == ("fails", 4, 5)  # the max norm alone would allow 8
        peaked = no_less_accurate(unit(size, torch.float32, e1=16 * own), spread(size, torch.float32, own), oracle, kappa=1.0)
        assert (peaked.verdict, peaked.bound, peaked.error) == ("fails", 8, 16)  # in the 2-norm it is 2

    @pytest.mark.parametrize(("size", "factor"), [(63, 4), (64, 1), (2, 4), (4096, 1)])
    @pytest.mark.parametrize("kappa", [1.0, 2.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_a_reference_that_is_right_by_luck_counts_as_rounded(self, size, factor, kappa, dtype):
        oracle, exact = unit(size), unit(size, dtype)
        allowed = 4 * factor * kappa * unit_roundoff(dtype)
        for shift, verdict in ((BELOW, "equivalent"), (1.0, "equivalent"), (ABOVE, "fails")):
            judged = no_less_accurate(unit(size, dtype, e1=shift * allowed), exact, oracle, kappa=kappa)
            assert judged.verdict == verdict
            assert judged.error == 4 * shift

    def test_the_floor_and_the_reference_s_error_do_not_add_up(self):
        size, own = 64, 2.0**-22  # κ·u is 2^-24
        reference = unit(size, torch.float32, e1=own)
        assert no_less_accurate(unit(size, torch.float32, e2=4 * own), reference, unit(size), kappa=1.0).verdict == "equivalent"
        assert no_less_accurate(unit(size, torch.float32, e2=4.25 * own), reference, unit(size), kappa=1.0).verdict == "fails"

    def test_errors_are_measured_from_the_oracle_not_from_the_reference(self):
        size, own = 65, 2.0**-10
        reference, oracle = unit(size, torch.float32, e1=own), unit(size)
        opposite = unit(size, torch.float32, e1=-own)
        assert no_less_accurate(opposite, reference, oracle, kappa=1.0).error == 1
        better = unit(size, torch.float32, e1=own / 4)
        assert no_less_accurate(better, reference, oracle, kappa=1.0).error == 0.25

    def test_the_reference_s_own_bits_are_identical(self):
        reference = unit(65, torch.float32, e1=0.5)
        judged = no_less_accurate(reference.clone(), reference, unit(65), kappa=1e9)
        assert (judged.verdict, judged.evidence, judged.bound) == ("identical", True, 4)

    def test_an_oracle_of_zero_asks_for_zero_even_where_the_reference_misses_it(self):
        oracle = torch.zeros(3, dtype=torch.float64)
        reference = torch.tensor([0, 1e-9, 0], dtype=torch.float32)
        assert no_less_accurate(oracle.float(), reference, oracle, kappa=1.0).verdict == "identical"
        judged = no_less_accurate(reference / 2, reference, oracle, kappa=1.0)
        assert (judged.verdict, judged.should) == ("fails", "exactly zero")


class TestIllConditioned:
    """κ above 30: shown, no evidence."""

    @pytest.mark.parametrize("error", [1.0, 1e9])
    def test_exactly_thirty_counts_and_the_next_number_does_not(self, error):
        reference, candidate = unit(5), unit(5, e1=error * U64)
        expected = "equivalent" if error == 1 else "fails"
        counted = same_function(candidate, reference, n=1, kappa=30.0)
        assert (counted.verdict, counted.evidence) == (expected, True)
        shown = same_function(candidate, reference, n=1, kappa=math.nextafter(30.0, 31))
        assert (shown.verdict, shown.evidence) == ("not applicable", False)
        assert shown.reason == "ill-conditioned (κ > 30): shown, no evidence"
        assert (shown.error, shown.unit) == (error, "u64")
        assert ILL_CONDITIONED == 30

    def test_the_same_below_float64(self):
        reference, candidate, oracle = unit(5, torch.float32, e1=2.0**-10), unit(5, torch.float32, e1=0.5), unit(5)
        assert no_less_accurate(candidate, reference, oracle, kappa=30.0).verdict == "fails"
        shown = no_less_accurate(candidate, reference, oracle, kappa=31.0)
        assert (shown.verdict, shown.evidence) == ("not applicable", False)
        assert (shown.error, shown.bound) == (0.5 * 2.0**10, 4)  # the 2-norm: the truth's is one
        assert shown.reason == "ill-conditioned (κ > 30): shown, no evidence"

    def test_the_reference_s_instability_alone_is_no_ill_condition(self):
        judged = same_function(unit(5, e1=100 * U64), unit(5), n=1, kappa=1.0, e32=1000 * U32)
        assert (judged.verdict, judged.bound) == ("equivalent", 8000)


RULES = {
    "bits": same_bits,
    "function": lambda candidate, reference: same_function(candidate, reference, n=4, kappa=1.0),
    "accuracy": lambda candidate, reference: no_less_accurate(candidate, reference, torch.ones(3, dtype=torch.float64), kappa=1.0),
    "structure": structure,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
class TestBeforeValues:
    """Shape, dtype and finiteness come first, in this order."""

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_reference_that_is_not_finite_excuses_everything(self, rule, value):
        reference = torch.tensor([1.0, value, 1.0])
        for candidate in (reference.clone(), torch.ones(3), torch.full((3,), math.nan)):
            judged = rule(candidate, reference)
            assert (judged.verdict, judged.reason) == ("not applicable", "the reference is not finite here")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_candidate_that_is_not_finite_fails(self, rule, value):
        judged = rule(torch.tensor([1.0, value, value]), torch.ones(3))
        assert judged == Judgement(Verdict.FAILS, math.inf, 0, "", "2 of 3 values not finite", "finite")

    @pytest.mark.parametrize(
        ("candidate", "words"),
        [
            (torch.ones(1, 3), "float32 (1, 3)"),
            (torch.ones(2), "float32 (2,)"),
            (torch.ones(()), "float32 ()"),
            (torch.ones(3, dtype=torch.float64), "float64 (3,)"),
            (torch.ones(3, dtype=torch.bfloat16), "bfloat16 (3,)"),
            (torch.full((1,), math.nan), "float32 (1,)"),
        ],
    )
    @pytest.mark.parametrize("value", [1.0, math.nan])
    def test_another_shape_or_dtype_fails_before_anything_else(self, rule, candidate, words, value):
        judged = rule(candidate, torch.full((3,), value))
        assert judged == Judgement(Verdict.FAILS, math.inf, 0, "", words, "float32 (3,)")


def test_structure_says_nothing_about_values():
    assert structure(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])) is None
    assert structure(torch.empty(0, 3), torch.empty(0, 3)) is None


def test_the_same_bits_are_identical():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        value = torch.tensor([0.1, -3.0, 0.0], dtype=dtype)
        assert same_bits(value.clone(), value).verdict is Verdict.IDENTICAL
    assert same_bits(torch.empty(0), torch.empty(0)).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_bit_is_too_much(dtype):
    value = torch.ones(4, dtype=dtype)
    candidate = value.clone()
    candidate[2] += torch.finfo(dtype).eps
    judged = same_bits(candidate, value)
    assert (judged.verdict, judged.error, judged.bound) == ("fails", 1.0, 0)  # 2 u in one of four equal values
    assert (judged.got, judged.should) == ("1 of 4 values differ", "bit for bit the same")
    assert judged.unit == unit_name(dtype)


def test_zeros_of_both_signs_count_as_the_same():
    """y + 0 turns −0 into 0; no value is lost by it."""
    assert same_bits(torch.tensor([-0.0, 1.0]), torch.tensor([0.0, 1.0])).verdict is Verdict.IDENTICAL
    assert same_bits(torch.tensor([1e-45]), torch.tensor([0.0])).verdict is Verdict.FAILS


def test_exactly_zero():
    assert exactly_zero(torch.zeros(2, 3)).verdict is Verdict.IDENTICAL
    assert exactly_zero(torch.tensor([-0.0])).verdict is Verdict.IDENTICAL
    assert exactly_zero(torch.empty(0)).verdict is Verdict.IDENTICAL
    judged = exactly_zero(torch.tensor([0.0, -2e-30, 1e-30]))
    assert judged == Judgement(Verdict.FAILS, float(torch.tensor(2e-30)), 0, "", "up to 2.0e-30", "exactly zero")


def test_distance():
    truth = torch.tensor([3.0, 4.0])
    assert distance(truth, truth) == 0
    assert distance(torch.tensor([3.0, 4.5]), truth) == pytest.approx(0.1, rel=1e-15)
    assert distance(torch.tensor([3.0, 4.5]), truth, math.inf) == 0.125
    assert distance(torch.zeros(2), torch.zeros(2)) == 0
    assert distance(torch.tensor([0.0, 1e-100], dtype=torch.float64), torch.zeros(2)) == math.inf
    # In float64 even for lower dtypes: 1 + 2^-8 is a number there, and so is the difference.
    assert distance(torch.tensor([1.0078125], dtype=torch.bfloat16), torch.tensor([1.0])) == 2.0**-7


def test_distance_neither_overflows_nor_underflows():
    for size in (1e-170, 1e-300, 1e170, 1e300):
        truth = torch.tensor([size, size], dtype=torch.float64)
        assert distance(1.5 * truth, truth) == pytest.approx(0.5, rel=1e-12), size
        assert same_function(1.5 * truth, truth, n=1, kappa=1.0).verdict == "fails", size


@pytest.mark.parametrize("size", [1.0, 1e-100, 1e-300, 5e-324])
def test_distance_from_zero_is_infinite_however_small_the_value(size):
    assert distance(torch.tensor([size, size], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)) == math.inf


def test_units_and_words():
    assert [unit_roundoff(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)] == [
        2.0**-53, 2.0**-24, 2.0**-11, 2.0**-8,
    ]  # fmt: skip
    assert [unit_name(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)] == [
        "u64", "u32", "u(fp16)", "u(bf16)",
    ]  # fmt: skip
    assert unit_name(torch.float8_e4m3fn) == "u(torch.float8_e4m3fn)"
    assert describe(torch.zeros(2, 3, dtype=torch.bfloat16)) == "bfloat16 (2, 3)"


def test_tensors_without_elements_are_no_distance_apart():
    assert distance(torch.empty(0, 3), torch.empty(0, 3)) == 0


def test_equal_tensors_are_identical_and_keep_the_bound_and_unit_they_were_held_to():
    same = unit(5)
    assert same_function(same, same, n=16, kappa=2.0) == Judgement(Verdict.IDENTICAL, bound=64, unit="u64")
    assert same_function(same, same, n=16, kappa=1.0, e32=4 * U32) == Judgement(Verdict.IDENTICAL, bound=128, unit="u64")
    assert no_less_accurate(same, same, same, kappa=1.0) == Judgement(Verdict.IDENTICAL, bound=4, unit=RATIO)


def test_the_words_of_a_failure_round_up_the_error():
    judged = same_function(unit(3, e1=9 * U64), unit(3), n=1, kappa=1.0)
    assert (judged.got, judged.should) == ("off by 16 u64", "at most 8 u64")
    judged = no_less_accurate(unit(65, torch.float32, e1=0.5), unit(65, torch.float32, e1=2.0**-8), unit(65), kappa=1.0)
    assert (judged.got, judged.should) == (f"off by 128 {RATIO}", f"at most 4 {RATIO}")


def test_another_order_is_judged_by_the_sizes_of_the_terms():
    u, n = 2.0**-24, 64
    reference, terms = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]).double()
    bound = 2 * math.sqrt(n)
    for error, verdict in ((0.0, Verdict.IDENTICAL), (bound * BELOW * u, Verdict.EQUIVALENT), (bound * ABOVE * u, Verdict.FAILS)):
        judged = another_order(reference + torch.tensor([0.0, error, 0.0]), reference, terms, n=n)
        assert judged.verdict is verdict
    assert another_order(reference + torch.tensor([0.0, 0.0, 1e-30]), reference, terms, n=n).verdict is Verdict.FAILS
    assert another_order(reference * math.nan, reference, terms, n=n).verdict is Verdict.FAILS
    assert another_order(reference.double(), reference, terms, n=n).verdict is Verdict.FAILS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_models_output_may_move_as_far_as_roundings_bring_it(dtype):
    u, n, kappa = unit_roundoff(dtype), 16, 2.0
    bound = 8 * 4 * kappa * u
    reference = unit(5, dtype)
    for error, verdict in ((0.0, Verdict.IDENTICAL), (bound * BELOW, Verdict.EQUIVALENT), (bound * ABOVE, Verdict.FAILS)):
        assert same_output(unit(5, dtype, e3=error), reference, n=n, kappa=kappa).verdict is verdict
    assert same_output(reference * math.nan, reference, n=n, kappa=100.0).verdict is Verdict.FAILS
    assert same_output(reference, 0 * reference, n=n, kappa=100.0).verdict is Verdict.FAILS
    assert (
        same_output(reference * 1.5, reference, n=n, kappa=1e6).verdict is Verdict.EQUIVALENT
    )  # however ill-conditioned, it is a verdict
