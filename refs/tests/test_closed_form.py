"""Every formula against plain loops over numbers: outputs, and gradients as complex-step finite differences."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from refs import closed_form, delora, dora, lora, pissa
from refs.case import Case
from refs.closed_form import ClosedForm, sensitivity
from refs.problem import problem
from refs.subject import run, run_at

CASE = Case(d_in=5, d_out=3, rank=2, alpha=3.0, batch=(2, 2))
FORMULAS = {"lora": lora.FORMULA, "dora": dora.FORMULA, "delora": delora.FORMULA}
LORA_CASES = [
    CASE,
    CASE.but(bias=False, batch=(4,)),
    CASE.but(options={"rslora": True}),
    CASE.but(options={"rslora": True}, rank=3),
    CASE.but(rank=None),
    CASE.but(alpha=None, seed=3),
    CASE.but(rank=None, alpha=None, options={"rslora": True}),
    CASE.but(state="init"),
    CASE.but(state="init", options={"init": "gaussian"}),
]
DELORA_CASES = [
    CASE.but(alpha=None),
    CASE.but(alpha=None, bias=False, batch=(4,)),
    CASE.but(alpha=None, rank=None),
    CASE.but(alpha=None, state="clamped", rank=3),
    CASE.but(alpha=None, state="init", options={"lambda0": 7.0}),
]
ALL = (
    [("lora", case) for case in LORA_CASES] + [("dora", case) for case in LORA_CASES] + [("delora", case) for case in DELORA_CASES]
)
IDS = [f"{variant}-{case.id}" for variant, case in ALL]


# Weights by loops over numbers, which may be complex: a derivative is the imaginary part of a step of i·h, exact to rounding.


def scale(case):
    r = 8 if case.rank is None else case.rank
    alpha = 8 if case.alpha is None else case.alpha
    return alpha / math.sqrt(r) if dict(case.options).get("rslora") else alpha / r


def lora_weight(case, W, p, held):
    A, B = p["lora_A"], p["lora_B"]
    return [
        [W[i][j] + scale(case) * sum(B[i][k] * A[k][j] for k in range(len(A))) for j in range(len(W[0]))] for i in range(len(W))
    ]


def dora_weight(case, W, p, held):
    V = lora_weight(case, W, p, held)
    # Held constant, a norm is the number that it is, not what it depends on.
    parts = [[v.real if held else v for v in row] for row in V]
    norms = [sum(v * v for v in row) ** 0.5 for row in parts]
    return [[p["lora_m"][i] / norms[i] * v for v in row] for i, row in enumerate(V)]


def clamped(norm):
    return norm if norm.real > 1e-4 else 1e-4


def delora_weight(case, W, p, held):
    A, B, strength = p["lora_A"], p["lora_B"], p["lora_lambda"]
    r, rows, columns = len(A), range(len(W)), range(len(W[0]))
    n = [math.sqrt(sum(W[i][j] ** 2 for i in rows)) for j in columns]
    a = [clamped(sum(A[k][j] * A[k][j] for j in columns) ** 0.5) for k in range(r)]
    b = [clamped(sum(B[i][k] * B[i][k] for i in rows) ** 0.5) for k in range(r)]
    return [
        [W[i][j] + strength / r * sum(B[i][k] * A[k][j] / (a[k] * b[k]) for k in range(r)) * n[j] for j in columns] for i in rows
    ]


WEIGHTS = {"lora": lora_weight, "dora": dora_weight, "delora": delora_weight}


def output(variant, case, numbers, values, *, held=True):
    """(tokens, d_out) as lists."""
    weight = WEIGHTS[variant](case, numbers.weight.tolist(), values, held)
    bias = [0.0] * case.d_out if numbers.bias is None else numbers.bias.tolist()
    return [[sum(x[j] * row[j] for j in range(case.d_in)) + b for row, b in zip(weight, bias, strict=True)] for x in values["x"]]


def lists(numbers):
    return {"x": numbers.x.flatten(0, -2).tolist()} | {name: value.tolist() for name, value in numbers.parameters.items()}


def derivative(variant, case, numbers, name, *, held=True):
    """Of ⟨cotangent, output⟩ by every element of one tensor."""
    shape = numbers.x.flatten(0, -2).shape if name == "x" else numbers.parameters[name].shape
    cotangent = numbers.cotangent.flatten(0, -2).tolist()
    gradient = torch.zeros(shape, dtype=torch.float64)
    for place in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist() if shape else [()]:
        values = lists(numbers)
        if not place:
            values[name] += 1e-30j
        else:
            inner = values[name]
            for index in place[:-1]:
                inner = inner[index]
            inner[place[-1]] += 1e-30j
        moved = output(variant, case, numbers, values, held=held)
        total = sum(c * complex(y).imag for cs, ys in zip(cotangent, moved, strict=True) for c, y in zip(cs, ys, strict=True))
        gradient[tuple(place)] = total / 1e-30
    return gradient


def trace_of(variant, case):
    numbers = problem(case, FORMULAS[variant])
    return run(ClosedForm(FORMULAS[variant]).build(case, numbers), case, numbers, numbers.parameters), numbers


def assert_near(got, expected, what):
    error = (got.reshape(expected.shape) - expected).norm()
    assert error <= 1e-12 * expected.norm(), f"{what}: off by {error / expected.norm():.1e}"


@pytest.mark.parametrize(("variant", "case"), ALL, ids=IDS)
def test_outputs_and_gradients_are_those_of_plain_loops(variant, case):
    trace, numbers = trace_of(variant, case)
    assert set(trace) == {"output", "grad.x"} | {f"grad.{name}" for name in numbers.parameters}
    expected = torch.tensor(output(variant, case, numbers, lists(numbers)), dtype=torch.float64)
    assert trace["output"].shape == (*case.batch, case.d_out)
    assert_near(trace["output"], expected, "output")
    for name in ("x", *numbers.parameters):
        gradient = derivative(variant, case, numbers, name)
        assert trace[f"grad.{name}"].shape == (numbers.x.shape if name == "x" else numbers.parameters[name].shape)
        assert_near(trace[f"grad.{name}"], gradient, name)
        if case.state == "perturbed":
            assert gradient.norm() > 1e-3, f"{name}: nothing was compared"


def test_the_norm_of_dora_is_held_constant():
    trace, numbers = trace_of("dora", CASE)
    for name in ("lora_A", "lora_B"):
        attached = derivative("dora", CASE, numbers, name, held=False)
        assert (trace[f"grad.{name}"] - attached).norm() > 0.05 * attached.norm()
    attached = derivative("dora", CASE, numbers, "lora_m", held=False)
    assert_near(trace["grad.lora_m"], attached, "lora_m")


def test_a_clamped_norm_has_no_gradient_of_its_own():
    case = DELORA_CASES[3]
    trace, numbers = trace_of("delora", case)
    row, free = numbers.parameters["lora_A"][:2], trace["grad.lora_A"][:2]
    radial = (row * free).sum(dim=1) / (row.norm(dim=1) * free.norm(dim=1))
    assert abs(radial[0]) > 1e-3  # below the clamp the length of the row matters
    assert abs(radial[1]) < 1e-12  # above, its direction alone does


@pytest.mark.parametrize("variant", FORMULAS)
def test_at_init_the_adapted_weight_is_the_weight(variant):
    case = CASE.but(state="init")
    numbers = problem(case, FORMULAS[variant])
    weight, bias = FORMULAS[variant].adapted(case, numbers.weight, numbers.bias, numbers.parameters)
    torch.testing.assert_close(weight, numbers.weight, rtol=4e-16, atol=0)
    assert bias.equal(numbers.bias)


@pytest.mark.parametrize("variant", FORMULAS)
def test_dropout_drops_the_input_of_the_difference_only(variant):
    p = 0.4
    case = CASE.but(options={"dropout": p}, batch=(40,), seed=5)
    trace, numbers = trace_of(variant, case)
    torch.manual_seed(case.seed)
    kept = dropout(torch.ones_like(numbers.x), p)
    assert set(kept.unique().tolist()) == {0.0, 1 / (1 - p)}
    weight, bias = FORMULAS[variant].adapted(case, numbers.weight, numbers.bias, numbers.parameters)
    expected = numbers.x @ numbers.weight.T + bias + (kept * numbers.x) @ (weight - numbers.weight).T
    assert_near(trace["output"], expected, "train")
    evaluated, _ = trace_of(variant, case.but(mode="eval"))
    assert_near(evaluated["output"], numbers.x @ weight.T + bias, "eval")
    again, _ = trace_of(variant, case)
    assert all(value.equal(again[name]) for name, value in trace.items())


def test_what_is_trained_and_what_is_frozen():
    numbers = problem(CASE, delora.FORMULA)
    subject = ClosedForm(delora.FORMULA).build(CASE, numbers)
    assert subject.trainable == {"lora_A", "lora_B", "lora_lambda"}
    assert set(subject.map) == {"lora_A", "lora_B", "lora_lambda", "lora_wnorm"}
    assert not isinstance(subject["lora_wnorm"], nn.Parameter)
    expected = [math.sqrt(sum(value**2 for value in column)) for column in numbers.weight.T.tolist()]
    torch.testing.assert_close(subject.read("lora_wnorm"), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)


def test_a_subject_starts_at_the_init_and_leaves_the_problem_alone():
    numbers = problem(CASE, lora.FORMULA)
    before = {name: value.clone() for name, value in numbers.parameters.items()} | {"weight": numbers.weight.clone()}
    subject = ClosedForm(lora.FORMULA).build(CASE, numbers)
    assert not subject.read("lora_B").any()
    run(subject, CASE, numbers, numbers.parameters)
    with torch.no_grad():
        for parameter in subject.module.parameters():
            parameter.add_(1)
        subject.module.weight.add_(1)
    assert numbers.weight.equal(before.pop("weight"))
    assert all(numbers.parameters[name].equal(value) for name, value in before.items())


def test_the_closed_form_runs_in_float64_only_and_says_where_it_is_from():
    form = ClosedForm(dora.FORMULA)
    assert form.refuses(CASE) is None
    for dtype in ("float32", "bfloat16"):
        assert form.refuses(CASE.but(dtype=dtype)) == "the closed form runs in float64 only"
    assert form.version == dora.FORMULA.source
    assert "2402.09353" in form.version


@pytest.mark.parametrize("variant", FORMULAS)
def test_sensitivity_is_at_least_one_for_every_tensor_of_the_trace(variant):
    trace, numbers = trace_of(variant, CASE)
    kappa = sensitivity(CASE, numbers, FORMULAS[variant])
    assert kappa.keys() == trace.keys()
    assert all(1 <= value < 30 for value in kappa.values()), kappa
    assert max(kappa.values()) > 1
    assert kappa == sensitivity(CASE, numbers, FORMULAS[variant])
    assert kappa == sensitivity(CASE.but(dtype="float32", mode="eval", options={"dropout": 0.5}), numbers, FORMULAS[variant])


def by_hand(x, weight, case):
    """A problem whose output is the base's alone."""
    numbers = problem(case.but(state="init"), lora.FORMULA)
    return dataclasses.replace(numbers, x=torch.tensor(x).double(), weight=torch.tensor(weight).double(), bias=None)


def test_sensitivity_is_large_for_a_sum_that_cancels():
    case = Case(d_in=4, d_out=1, rank=2, alpha=6.0, bias=False, batch=(1,))
    fresh = sensitivity(case, by_hand([[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, 1.0]], case), lora.FORMULA)
    cancelling = sensitivity(case, by_hand([[1.0, 1.0, 1.0, 1.0]], [[1.0, -1.0, 1.0, -1.0 + 2.0**-10]], case), lora.FORMULA)
    assert fresh["output"] <= 2.01
    assert 1000 < cancelling["output"] < 2.01 * 4 * 2**10
    assert cancelling["grad.x"] < 2  # the weight itself, which nothing cancels


@pytest.mark.parametrize("seed", range(24))  # of random roundings alone, one problem in sixteen would see none of it
def test_sensitivity_is_large_for_two_terms_that_cancel(seed):
    case = Case(d_in=40, d_out=2, rank=1, alpha=6.0, batch=(1,), seed=seed)
    numbers = problem(case, lora.FORMULA)
    nearly_across = torch.tensor([[-1.0], [1 + 2.0**-10]]) / numbers.cotangent.reshape(2, 1)  # B's terms in A's gradient
    numbers = dataclasses.replace(numbers, parameters=numbers.parameters | {"lora_B": nearly_across.double()})
    assert 2**9 < sensitivity(case, numbers, lora.FORMULA)["grad.lora_A"] < 2**12 * 1.01


def test_sensitivity_of_a_gradient_that_is_exactly_zero_is_one():
    case = CASE.but(state="init")
    kappa = sensitivity(case, problem(case, lora.FORMULA), lora.FORMULA)
    assert kappa["grad.lora_A"] == 1


def test_sensitivity_grows_with_the_draws():
    numbers = problem(CASE, lora.FORMULA)
    few, many = (sensitivity(CASE, numbers, lora.FORMULA, draws=draws) for draws in (1, 6))
    assert all(many[name] >= few[name] for name in few)
    assert any(many[name] > few[name] for name in few)
    assert sensitivity(CASE, numbers, lora.FORMULA, draws=0) == dict.fromkeys(few, 1.0)


@pytest.mark.parametrize(("formula", "frozen"), [(lora.FORMULA, ()), (pissa.FORMULA, ["residual"])], ids=["lora", "pissa"])
def test_sensitivity_jitters_every_input_weight_and_parameter_by_one_rounding(monkeypatch, formula, frozen):
    numbers = problem(CASE, formula)
    seen = []

    def recorded(subject, case, problem, formula):
        own = problem.parameters | problem.frozen
        seen.append({"x": problem.x, "weight": problem.weight, "bias": problem.bias} | own)
        assert problem.cotangent.equal(numbers.cotangent)
        assert subject.module.weight.equal(problem.weight)
        assert {name: subject.read(name).equal(value) for name, value in own.items()} == dict.fromkeys(own, True)
        return run_at(subject, case, problem, formula)

    monkeypatch.setattr(closed_form, "run_at", recorded)
    sensitivity(CASE, numbers, formula, draws=2)
    plain, *draws = seen
    assert plain.keys() == {"x", "weight", "bias", "lora_A", "lora_B", *frozen}
    alone = [
        [(name, int(at)) for name, value in plain.items() for at in (moved[name] != value).flatten().nonzero()]
        for moved in draws[2:]
    ]
    assert alone == [[("lora_B", at)] for at in range(6)]  # the one tensor that is small
    for name, value in plain.items():
        for moved in draws[:2]:
            ratio = moved[name] / value - 1
            assert ratio.abs().min() > 2.0**-24 * 0.99, name
            assert ratio.abs().max() < 2.0**-24 * 1.01, name
        assert not draws[0][name].equal(draws[1][name]), name
