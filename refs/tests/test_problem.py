"""The numbers of a case: how far the adapter moves the output, what the dtypes can hold, who gets the same."""

import dataclasses
import importlib

import pytest
import torch
from torch.nn.functional import linear

from conformance.variants import known
from refs import delora, lora
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.formula import Normal, Uniform
from refs.numbers import normal
from refs.problem import EFFECT, base, problem, start
from refs.subject import run_at

SUITES = {variant: importlib.import_module(f"conformance.suites.test_{variant}").SUITE for variant in known()}
# Recorded cases have numbers of their own. Pretrained layers belong to no variant: one that is cheap to decompose and to fit stands for them.
GRID = [(variant, case) for variant, suite in SUITES.items() for case in suite.cases if variant == "lora" or not case.is_given]
IDS = [f"{variant}-{case.id}" for variant, case in GRID]
SMALL = [(suite.formula, suite.cases[0]) for suite in SUITES.values()]
CASE = Case(d_in=24, d_out=16, rank=4, alpha=6.0, batch=(2, 5))
QUERY = "minilm:encoder.layer.3.attention.self.query"


@pytest.fixture(autouse=True)
def threads():
    """One thread, so that sums are taken in one order; a function to ask for another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def tensors(numbers):
    named = {"x": numbers.x, "weight": numbers.weight, "cotangent": numbers.cotangent} | numbers.parameters | numbers.frozen
    return named if numbers.bias is None else named | {"bias": numbers.bias}


def assert_same(one, other):
    assert tensors(one).keys() == tensors(other).keys()
    for name, value in tensors(one).items():
        assert value.equal(tensors(other)[name]), name
    assert one.effect == other.effect


def unmoved(case, formula):
    """The base layer's output; that of the start where more is cut off from a weight than any move adds."""
    still = problem(case.but(state="init"), formula)
    plain = linear(still.x, still.weight, still.bias)
    if case.option("residual", True) or case.weight == "cliff":
        return plain
    cut = run_at(ClosedForm(formula).build(case, still), case.but(mode="eval", state="init"), still, formula)["output"]
    assert (cut - plain).norm() > EFFECT * plain.norm()
    return cut


def goes_no_further(case, formula):
    """Whether a method takes something out, and no strength takes out more."""
    at_start = start(case, formula, base(case)[0])
    noise = {name: normal(name, shape=tuple(value.shape)) for name, value in at_start.items()}
    one, other = (formula.moved(case, at_start, noise, strength) for strength in (2.0**6, 2.0**12))
    return all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize(("variant", "case"), GRID, ids=IDS)
def test_the_perturbed_adapter_moves_the_output_by_three_tenths(variant, case):
    formula = SUITES[variant].formula
    numbers = problem(case, formula)
    output = run_at(ClosedForm(formula).build(case, numbers), case.but(mode="eval"), numbers, formula)["output"]
    plain = linear(numbers.x, numbers.weight, numbers.bias)
    effect = float((output - unmoved(case, formula)).norm() / plain.norm())
    assert EFFECT == 0.3
    assert 0.3 <= effect < 0.32 or (0.05 < effect < 0.3 and goes_no_further(case, formula))
    assert effect == pytest.approx(numbers.effect, rel=1e-12)
    for name, value in start(case, formula, numbers.weight).items():
        assert (numbers.parameters[name] - value).norm() > 1e-3 * (value.norm() + 1), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("formula", "case"), SMALL, ids=SUITES)
def test_below_float64_the_effect_stays_and_every_number_is_held_by_the_dtype(formula, case, dtype):
    numbers = problem(case.but(dtype=dtype), formula)
    assert numbers.effect == pytest.approx(problem(case, formula).effect, rel=0.06)
    for name, value in tensors(numbers).items():
        assert value.dtype == torch.float64, name
        assert value.to(getattr(torch, dtype)).double().equal(value), name


@pytest.mark.parametrize(("formula", "case"), SMALL, ids=SUITES)
def test_in_float64_base_and_cotangent_are_what_float32_holds_and_nothing_else_is(formula, case):
    held = {name: value.float().double().equal(value) for name, value in tensors(problem(case, formula)).items()}
    assert held.pop("weight")
    assert held.pop("bias")
    assert held.pop("cotangent")  # the same on every processor: recorded traces are found by it
    held.pop("lora_lambda", None)  # one number with few bits
    assert not any(held.values()), held


def test_pretrained_numbers_are_float32_in_float64():
    numbers = problem(Case(d_in=384, d_out=384, rank=8, batch=(3, 10), weight=QUERY), lora.FORMULA)
    assert numbers.weight.float().double().equal(numbers.weight)
    assert numbers.bias is not None
    assert numbers.x.shape == (3, 10, 384)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "eval"},
        {"layer": "conv1d"},
        {"layer": "other"},
        {"call": "keyword"},
        {"adapter_dtype": "bfloat16"},
        {"options": {"dropout": 0.3}},
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_how_a_case_is_run_does_not_change_its_numbers(changes, dtype):
    case = CASE.but(dtype=dtype)
    assert_same(problem(case, lora.FORMULA), problem(case.but(**changes), lora.FORMULA))


@pytest.mark.parametrize("changes", [{"seed": 1}, {"rank": 3}, {"batch": (5, 2)}, {"weight": "gap"}, {"state": "init"}], ids=repr)
def test_what_a_case_is_does_change_them(changes):
    one, other = problem(CASE, lora.FORMULA), problem(CASE.but(**changes), lora.FORMULA)
    assert any(not value.equal(tensors(other)[name]) for name, value in tensors(one).items())


def test_a_seed_changes_every_tensor():
    one, other = problem(CASE, delora.FORMULA), problem(CASE.but(seed=1), delora.FORMULA)
    for name, value in tensors(one).items():
        assert not value.equal(tensors(other)[name]), name


@pytest.mark.parametrize(("formula", "case"), SMALL, ids=SUITES)
def test_the_number_of_threads_changes_no_number(threads, formula, case):
    made = []
    for number in (1, 2):
        threads(number)
        made.append(problem(case, dataclasses.replace(formula)))  # another formula, as problems are cached
    assert_same(*made)


def test_at_init_the_parameters_are_the_start_and_the_cotangent_is_random_alone():
    case = CASE.but(state="init")
    numbers = problem(case, lora.FORMULA)
    assert numbers.effect == 0
    for name, value in start(case, lora.FORMULA, numbers.weight).items():
        assert numbers.parameters[name].equal(value)
    assert numbers.cotangent.equal(normal(case.seed, "cotangent", shape=(2, 5, 16)).float().double())


@pytest.mark.parametrize(("variant", "case"), GRID, ids=IDS)
def test_the_cotangent_is_random_plus_a_part_of_equal_norm_along_the_move(variant, case):
    formula = SUITES[variant].formula
    numbers = problem(case, formula)
    weight, bias = formula.adapted(case, numbers.weight, numbers.bias, numbers.parameters | numbers.frozen)
    move = linear(numbers.x, weight, bias) - unmoved(case, formula)
    random = normal(case.seed, "cotangent", shape=(*case.batch, case.d_out))
    along = numbers.cotangent - random
    assert along.norm() / random.norm() == pytest.approx(1, abs=1e-6)  # it is rounded to float32
    assert (along * move).sum() / (along.norm() * move.norm()) == pytest.approx(1, abs=1e-6)


def test_an_unknown_state_is_refused_and_the_known_are_listed():
    with pytest.raises(ValueError, match="unknown state 'clmaped'; known: init, perturbed, clamped"):
        problem(CASE.but(state="clmaped", alpha=None), delora.FORMULA)
    with pytest.raises(ValueError, match="unknown state 'clamped'"):
        problem(CASE.but(state="clamped"), lora.FORMULA)


def test_an_unknown_weight_kind_is_refused_and_the_known_are_listed():
    with pytest.raises(
        ValueError, match="unknown weight kind 'flta'; known: random, decay, cliff, gap, flat, deficient, minilm:MODULE"
    ):
        problem(CASE.but(weight="flta"), lora.FORMULA)


@pytest.mark.parametrize(
    "changes", [{"d_in": 383}, {"d_out": 100}, {"batch": (4, 10)}, {"batch": (3, 1000)}, {"batch": (3, 5, 2)}], ids=repr
)
def test_a_pretrained_case_of_another_size_is_refused_with_both_sides(changes):
    case = Case(d_in=384, d_out=384, batch=(3, 10), weight=QUERY).but(**changes)
    with pytest.raises(ValueError, match=r"query is \(384, 384\) with input \(3, \d+, 384\); the case says Case\("):
        base(case)


def test_a_pretrained_case_with_a_batch_of_one_dimension_is_refused_with_both_sides():
    with pytest.raises(ValueError, match="the case says Case"):
        base(Case(d_in=384, d_out=384, weight=QUERY))


def singular_values(kind, d_out=16, d_in=24, **more):
    weight, _, _ = base(Case(d_in=d_in, d_out=d_out, weight=kind, **more))
    assert weight.shape == (d_out, d_in)
    return torch.linalg.svdvals(weight)


NEAR = {"rtol": 0, "atol": 1e-6}  # the weights are rounded to float32


@pytest.mark.parametrize("shape", [(16, 24), (33, 10), (9, 9)])
def test_spectra_of_the_kinds_of_weight(shape):
    k = min(shape)
    torch.testing.assert_close(singular_values("flat", *shape), torch.ones(k, dtype=torch.float64), **NEAR)
    decay = singular_values("decay", *shape)
    torch.testing.assert_close(decay[1:] / decay[:-1], torch.full((k - 1,), 16.0 ** (-1 / (k - 1))).double(), rtol=1e-5, atol=0)
    assert decay[0] == pytest.approx(4, rel=1e-6)
    gap = singular_values("gap", *shape, rank=3)
    assert gap[2] > 3.99
    assert gap[3] < 0.71
    assert gap[-1] > 0.49
    deficient = singular_values("deficient", *shape)
    kept = (k + 1) // 2
    assert deficient[kept - 1] > 1
    assert deficient[kept:].abs().max() < 1e-6
    assert 0.3 < singular_values("random", *shape).max() < 3


def test_the_gap_lies_at_the_rank_or_at_two():
    assert singular_values("gap", rank=5)[4] > 3.99 > 0.71 > singular_values("gap", rank=5)[5]
    assert singular_values("gap")[1] > 3.99 > 0.71 > singular_values("gap")[2]


@pytest.mark.parametrize("kind", ["flat", "decay", "gap", "deficient", "random"])
def test_a_square_weight_is_not_symmetric(kind):
    weight, _, _ = base(Case(d_in=16, d_out=16, rank=3, weight=kind))
    assert (weight - weight.T).norm() > 0.1 * weight.norm()


def test_a_bias_only_where_the_case_has_one():
    assert base(CASE)[1].shape == (16,)
    assert base(CASE.but(bias=False))[1] is None
    assert base(Case(d_in=384, d_out=384, batch=(3, 10), weight=QUERY, bias=False))[1] is None


def test_the_start_follows_the_description():
    weight = base(CASE)[0]
    A = start(CASE, lora.FORMULA, weight)["lora_A"]
    bound = 24**-0.5
    assert 0.9 * bound < A.abs().max() <= bound
    assert A.min() < -0.8 * bound < 0.8 * bound < A.max()
    assert A.std() == pytest.approx(bound / 3**0.5, rel=0.15)
    gaussian = start(CASE.but(options={"init": "gaussian"}), lora.FORMULA, weight)["lora_A"]
    assert gaussian.std() == pytest.approx(1 / 4, rel=0.15)
    shifted = dataclasses.replace(lora.FORMULA, init=lambda case, weight: {"lora_A": Normal(1 / 4, (4, 24), mean=3.0)})
    assert torch.allclose(start(CASE.but(options={"init": "gaussian"}), shifted, weight)["lora_A"], gaussian + 3)
    formula = dataclasses.replace(lora.FORMULA, init=lambda case, weight: {"one": Uniform(1.0, (3,)), "two": Uniform(1.0, (3,))})
    drawn = start(CASE, formula, weight)
    assert not drawn["one"].equal(drawn["two"])
    paired = dataclasses.replace(lora.FORMULA, init=lambda case, weight: {"one": Uniform(1.0, (6, 4), copies=2)})
    rows = start(CASE, paired, weight)["one"]
    assert rows.shape == (6, 4)
    assert rows[::2].equal(rows[1::2])
    assert len(rows.unique()) == 12


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", [SUITES["delora"].cases[0], SUITES["delora"].cases[2]], ids=lambda case: case.id)
def test_the_clamped_state_lies_on_both_sides_of_the_clamp(case, dtype):
    moved = problem(case.but(state="clamped", dtype=dtype), delora.FORMULA)
    plain = problem(case.but(dtype=dtype), delora.FORMULA)
    a, b = moved.parameters["lora_A"].norm(dim=1), moved.parameters["lora_B"].norm(dim=0)
    assert 0.6e-4 < a[0] < 0.8e-4 < 1.2e-4 < a[1] < 1.4e-4
    assert 0.6e-4 < b[1] < 0.8e-4 < 1.2e-4 < b[0] < 1.4e-4
    assert a[2:].tolist() == plain.parameters["lora_A"].norm(dim=1)[2:].tolist()
    assert b[2:].tolist() == plain.parameters["lora_B"].norm(dim=0)[2:].tolist()


@pytest.mark.parametrize("clamp", [1e-6, 2e-4])
def test_in_the_clamped_state_another_clamp_is_another_function(monkeypatch, clamp):
    case = SUITES["delora"].cases[0].but(state="clamped")
    numbers = problem(case, delora.FORMULA)
    weight, _ = delora.adapted(case, numbers.weight, None, numbers.parameters)
    monkeypatch.setattr(delora, "CLAMP", clamp)
    other, _ = delora.adapted(case, numbers.weight, None, numbers.parameters)
    assert (other - weight).norm() > 0.05 * (weight - numbers.weight).norm()


def test_scales_multiply_weight_bias_and_input():
    plain, scaled = base(CASE), base(CASE.but(scales=(1e-3, 10.0, 1e3)))
    for before, after, scale in zip(plain, scaled, (1e-3, 10.0, 1e3), strict=True):
        torch.testing.assert_close(after, scale * before, rtol=1e-6, atol=0)
    assert all(tensor.equal(tensor.float().double()) for tensor in scaled[:2])  # what float32 can hold


@pytest.mark.parametrize("seed", range(8))
def test_the_cotangent_of_a_single_output_does_not_cancel(seed):
    numbers = problem(Case(d_in=3, d_out=1, rank=2, alpha=3.0, batch=(1,), seed=seed), lora.FORMULA)
    assert numbers.cotangent.abs() > 2.0**-3 * normal(seed, "cotangent", shape=(1, 1)).abs()


def test_a_start_of_a_single_number_is_moved():
    numbers = problem(Case(d_in=1, d_out=2, rank=1, alpha=3.0), lora.FORMULA)
    assert numbers.parameters["lora_A"].isfinite().all()
    assert numbers.parameters["lora_A"] != start(Case(d_in=1, d_out=2, rank=1), lora.FORMULA, numbers.weight)["lora_A"]


def test_any_kind_of_weight_may_have_one_row():
    for kind in ("random", "decay", "gap", "flat", "deficient"):
        assert base(Case(d_in=1, d_out=4, rank=1, weight=kind))[0].isfinite().all()
