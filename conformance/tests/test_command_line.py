"""python -m conformance."""

import json
import subprocess
import sys

import pytest

from conformance.__main__ import main
from conformance.checks import CHECKS
from conformance.variants import known

CASE = "24x16-r4-2x5-random-train-perturbed-float64"


def said(capsys, *arguments):
    status = main(arguments)
    return status, capsys.readouterr()


def test_list_is_the_matrix_of_ci_and_needs_no_torch(capsys):
    assert json.loads(said(capsys, "list", "--json")[1].out) == known()
    code = "import sys; from conformance.__main__ import main; main(['list']); assert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    width = max(map(len, known()))
    assert [line.split()[0] for line in out.splitlines()] == known()
    assert f"{'lora':{width}}  LoRA against peft, the authors' loralib and the paper.\n" in out


def test_explain_shows_formulas_and_the_sentence_of_every_check(capsys):
    status, output = said(capsys, "explain", "delora")
    assert status == 0
    assert all(f"{name}: {check.sentence}" in output.out for name, check in CHECKS.items())
    assert "peft (peft " in output.out
    assert "lite (lite/variants/delora.py:" in output.out


def test_explain_a_check_shows_its_cells_and_cases(capsys):
    out = said(capsys, "explain", "delora", "forward")[1].out
    assert "    delora/closed_form-forward\n    delora/peft-forward\n" in out
    assert f"    {CASE}\n" in out


def test_reproduce_runs_one_case_and_prints_what_it_measured(capsys):
    status, output = said(capsys, "reproduce", f"delora/closed_form-gradients/{CASE}")
    assert status == 0
    rows = dict(line.split()[:2] for line in output.out.splitlines() if line.strip().startswith("grad."))
    assert list(rows) == [f"grad.{name}" for name in ("x", "lora_A", "lora_B", "lora_lambda")]
    assert set(rows.values()) <= {"identical", "equivalent"}


def test_reproduce_of_a_bug_is_red_and_shows_both_sides(capsys):
    from conformance.known_bugs import BUGS, planted
    from conformance.runs import at_values

    at_values.cache_clear()  # lite's own layers are cached by the suite: they must be built with the bug, and without it afterwards
    try:
        with planted(next(bug for bug in BUGS if bug.id == "delora-sign")):
            status, output = said(capsys, "reproduce", f"delora/closed_form-forward/{CASE}")
    finally:
        at_values.cache_clear()
    assert status == 1
    assert "got off by 2^" in " ".join(output.out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "lroa"], f"unknown variant lroa; known: {', '.join(known())}"),
        (["explain", "lora", "foward"], "unknown check 'foward'; known: mapping, seed parity"),
        (["reproduce", "lroa/peft-forward"], "unknown variant lroa"),
        (["reproduce", "lora/peft-foward"], "lora has no cell 'peft-foward'; it has\n  peft_vs_closed_form-mapping\n"),
        (["reproduce", "lora/peft-forward/1x1"], "lora/peft-forward has no case '1x1'; it has 24x16-r4-alpha6-2x5"),
        (["report", "--run-folder", "nowhere"], "nowhere holds no run; make one with: nox -s conformance"),
        (["summary", "--run-folder", "nowhere"], "nowhere holds no run"),
    ],
)
def test_unusable_input_is_refused_with_what_there_is(capsys, arguments, words):
    status, output = said(capsys, *arguments)
    assert status == 2
    assert words in output.err


def test_help_helps(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "run the one case of a measurement and print its table" in " ".join(capsys.readouterr().out.split())
