"""The detection floor: faults are what they say, and a suite that sees too little is void."""

import dataclasses
import functools

import pytest
import torch

from conformance import floor, floor_run, policy
from conformance.__main__ import main
from conformance.certificate import Certificate
from conformance.fault import Fault, Faulty
from conformance.floor import GOALS, Floor, case_for, floors, grid, void, wide
from conformance.report.summary import Summary
from conformance.suite_of import suite_of
from conformance.variants import known
from refs.problem import problem
from refs.subject import run_at

SUITE = suite_of("delora")
CASE = case_for(SUITE)


def trace(fault, size):
    numbers = problem(CASE, SUITE.formula)
    candidate = Faulty(functools.partial(floor._sound, SUITE), fault, size)
    return run_at(candidate.build(CASE, numbers), CASE, numbers, SUITE.formula)


def some(kind="scale", size=1e-14, *, reference="peft", dtype="float64", tensor="x", allowance=3.0):
    return Floor("delora", reference, dtype, tensor, kind, size, allowance)


@pytest.mark.parametrize("tensor", ["lora_A", "x"])
@pytest.mark.parametrize(("kind", "changed"), [("scale", None), ("row", None), ("element", 1), ("sign", 1)])
def test_a_fault_of_a_gradient_changes_that_one_alone(tensor, kind, changed):
    right, wrong = trace(Fault("scale", tensor), 0.0), trace(Fault(kind, tensor), 0.25)
    name = f"grad.{tensor}"
    assert {key for key in right if not right[key].equal(wrong[key])} == {name}
    differing = int((right[name] != wrong[name]).sum())
    assert differing == {"scale": right[name].numel(), "row": right[name][-1].numel()}.get(kind, changed)
    ratio = wrong[name][right[name] != wrong[name]] / right[name][right[name] != wrong[name]]
    torch.testing.assert_close(ratio, torch.full_like(ratio, -1.0 if kind == "sign" else 1.25))


def test_a_fault_of_the_delta_reaches_output_and_gradients():
    right, wrong = trace(Fault("scale", "delta"), 0.0), trace(Fault("scale", "delta"), 0.5)
    assert {key for key in right if not right[key].equal(wrong[key])} == set(right)
    torch.testing.assert_close(wrong["grad.lora_B"], 1.5 * right["grad.lora_B"])


def test_the_smallest_sign_is_the_one_of_at_least_that_size():
    value = torch.tensor([4.0, -0.01, 0.5, 1.0])  # root mean square 2.07
    assert Fault("sign", "x").factor(value, 0.2).tolist() == [1, 1, -1, 1]
    assert Fault("sign", "x").factor(value, 0.3).tolist() == [1, 1, 1, -1]


@pytest.mark.parametrize("variant", ["ia3", "ia3_ff"])
def test_goals_are_met_and_the_floor_is_where_the_verdict_turns(variant, monkeypatch):
    monkeypatch.setattr(floor, "DTYPES", ("float64",))
    found = floors(variant)
    assert void(found) == []
    suite = suite_of(variant)
    assert {f.reference for f in found} == {reference.name for reference in suite.all_references if not reference.is_fixed}
    exact = next(f for f in found if (f.reference, f.tensor, f.kind) == ("closed form", "delta", "scale"))
    see = functools.partial(floor._seen, suite, suite.all_references[0], case_for(suite), Fault("scale", "delta"))
    assert see(exact.size)
    assert not see(exact.size / 2 ** (1 / floor.STEPS))


@pytest.mark.parametrize("exponent", range(-40, -10, 3))
def test_an_error_of_float32s_size_is_no_hard_cast(exponent):
    """The gain's gradient does not depend on the gain: a nudge of the parameters alone cannot tell."""
    suite = suite_of("ia3")
    assert floor._seen(suite, suite.references[0], case_for(suite), Fault("scale", "lora_g"), 2.0**exponent)


def test_a_suite_that_sees_too_little_is_void(monkeypatch):
    monkeypatch.setattr(floor, "DTYPES", ("float64",))
    monkeypatch.setattr(policy, "FUNCTION", policy.FUNCTION * 1e3)
    monkeypatch.setattr(floor, "_faults", lambda numbers: [Fault("scale", "delta"), Fault("element", "x")])
    found = floors("ia3")
    assert [line.split(" is seen")[0] for line in void(found)] == ["scale of delta", "element of x"]
    assert Summary(Certificate("ia3", ()), found).verdict == "void"


def test_one_reference_that_sees_enough_is_enough_and_the_others_say_why():
    found = [some(size=3e-13, allowance=9.0), some(size=2e-14, reference="closed form")]
    assert void(found) == []
    assert wide(found) == ["scale of x against peft: 3.0e-13, because the bound is 9 times that of a well-conditioned tensor"]
    assert void(found[:1]) == ["scale of x is seen from 3.0e-13 on, should be from 1e-13 on"]
    assert void([some(size=None)]) == ["scale of x is not seen, should be from 1e-13 on"]


def test_what_was_not_measured_is_void():
    for found in ((), [some(dtype="float32")]):
        assert void(found) == ["floor in float64 is missing: nothing was measured"]


def test_goals_are_asked_in_float64_of_scales_and_of_elements_of_gradients():
    assert {kind: some(kind).goal for kind in ("scale", "row", "element", "sign")} == {**GOALS, "row": None, "sign": None}
    assert some("element", tensor="delta").goal is None
    assert some(dtype="float32").goal is None


def test_the_grid_has_a_column_per_reference_and_dtype():
    header, *rows = grid([some(), some(dtype="float32", size=1e-6), some("sign", 2.0**-60), some("row", None)])
    assert header == ["of", "fault", "peft float64", "peft float32"]
    assert rows == [["x", "scale", "1.0e-14", "1.0e-06"], ["x", "sign", "any", ""], ["x", "row", "not seen", ""]]


def test_the_command_prints_keeps_and_fails_on_a_missed_goal(tmp_path, monkeypatch, capsys):
    bad = dataclasses.replace(some(size=1e-12), variant="ia3")
    monkeypatch.setattr(floor_run, "_measured", lambda variants, processes: [(v, (some(),)) for v in variants])
    assert main(["floor", "delora", "--run-folder", str(tmp_path)]) == 0
    monkeypatch.setattr(floor_run, "_measured", lambda variants, processes: [("ia3", (bad,))])
    assert main(["floor", "ia3", "--run-folder", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "peft float64" in printed
    assert "void: scale of x is seen from 1.0e-12 on" in printed
    assert floor_run.read(tmp_path) == {"delora": (some(),), "ia3": (bad,)}
    assert list(floor_run.read(tmp_path)) == [name for name in known() if name in ("delora", "ia3")]


@pytest.mark.parametrize("text", ["", "[]", '{"delora": [{}]}', '{"delora": 3}'])
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / floor_run.FILE).write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        floor_run.read(tmp_path)


def test_without_a_file_the_command_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nox -s floor"):
        floor_run.read(tmp_path)
