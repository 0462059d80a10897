"""The suites as users run them: selection, exit codes, the folder of a run, and the same text in every order."""

import json
import os
import re
import subprocess
import sys

import pytest

from conformance.variants import known


def run(folder, *arguments, **environment):
    """Run pytest on the installed suites in a folder of its own, like a user."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "conformance.suites", "-p", "no:cacheprovider", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    (folder / "pytest.ini").touch()
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=kept | environment, check=False)


def verdicts(done):
    """The part of the output that holds the tables."""
    return re.search(r"=+ verdicts =+\n(.*?)measurements and pages", done.stdout, re.DOTALL).group(1).strip()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return folder, run(folder, "--variant", "ia3", "-p", "no:randomly")  # of all the one that runs fastest


def test_a_run_prints_its_table_and_writes_its_folder(serial):
    folder, done = serial
    assert done.returncode == 0, done.stdout + done.stderr
    text = verdicts(done)
    assert "ia3: faithful\n" in text
    for check in ("mapping", "seed parity", "init", "forward", "gradients", "dead parameters", "identity", "dropout", "accuracy"):
        assert re.search(rf"^  {check}  ", text, re.MULTILINE), check
    assert "untested" not in text
    assert "ia3_ff" not in text
    lines = (folder / ".conformance" / "measurements.jsonl").read_text().splitlines()
    assert {json.loads(line)["variant"] for line in lines} == {"ia3"}
    assert (folder / ".conformance" / "ia3.md").read_text().startswith("# ia3: faithful\n")
    assert (folder / ".conformance" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "arguments",
    [("-n", "2", "-p", "no:randomly"), ("-p", "randomly", "-p", "no:xdist")],
)
def test_two_workers_random_order_and_a_second_run_give_the_same_text(serial, tmp_path, arguments):
    folder, done = serial
    again = run(tmp_path, "--variant", "ia3", *arguments, OMP_NUM_THREADS="2")
    assert again.returncode == 0, again.stdout
    assert verdicts(again) == verdicts(done)
    assert (tmp_path / ".conformance" / "ia3.md").read_text() == (folder / ".conformance" / "ia3.md").read_text()


def test_keywords_and_markers_select(tmp_path):
    collected = run(tmp_path, "--collect-only", "-q", "-k", "delora").stdout
    assert "test_delora[closed_form-forward]" in collected
    assert "test_dora" not in collected
    collected = run(tmp_path, "--collect-only", "-q", "-m", "variant(name='lora')").stdout
    assert "test_lora[peft-mapping]" in collected
    assert "test_delora" not in collected


@pytest.mark.parametrize("arguments", [("--variant", "lroa"), ("-m", "variant(name='lroa')")])
def test_an_unknown_variant_is_a_usage_error_that_lists_the_known(tmp_path, arguments):
    done = run(tmp_path, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"unknown variant lroa; known: {', '.join(known())}" in done.stderr


CASE = "24x16-r4-2x5-random-train-perturbed-float64"


def test_one_case_of_one_cell_can_be_run_again_and_is_no_verdict_on_the_variant(tmp_path):
    done = run(tmp_path, "--variant", "delora", "-k", "peft-forward", "--case", CASE)
    assert done.returncode == 0
    assert "delora: partial: a narrowed run" in verdicts(done)
    lines = (tmp_path / ".conformance" / "measurements.jsonl").read_text().splitlines()
    assert {json.loads(line)["case_id"] for line in lines} == {CASE}


def test_an_unknown_case_is_a_usage_error(tmp_path):
    done = run(tmp_path, "--variant", "delora", "-k", "peft-forward", "--case", "nothing")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no selected check has a case with id nothing" in done.stdout


# A plugin that plants a bug before the suites run, as an edit of the file would.
PLANT = """
import contextlib, pytest
from conformance.known_bugs import BUGS, planted
stack = contextlib.ExitStack()
stack.enter_context(planted(next(bug for bug in BUGS if bug.id == {bug!r})))
"""


def test_a_bug_makes_the_run_red_with_one_table_and_the_command_to_repeat_it(tmp_path):
    (tmp_path / "plant.py").write_text(PLANT.format(bug="delora-sign"))
    chosen = ("--variant", "delora", "-k", "closed_form-forward or closed_form-init")
    done = run(tmp_path, *chosen, "-p", "plant", PYTHONPATH=str(tmp_path))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "delora: buggy" in verdicts(done)
    assert "delora: forward of lite against closed form" in done.stdout
    assert re.search(r"output +off by 2\^\d+ u64 +at most \d+ u64", done.stdout)
    command = re.search(r"again: python -m conformance (.*)", done.stdout).group(1)
    assert command == f'reproduce "delora/closed_form-forward/{CASE}"'
    page = (tmp_path / ".conformance" / "delora.md").read_text()
    assert page.startswith("# delora: buggy\n")
    assert page.count("again:") > 4  # the page has all cases, the terminal the first ones


def test_help_names_the_options_and_variants(tmp_path):
    text = " ".join(run(tmp_path, "--help").stdout.split())
    assert f"run this variant only; known: {', '.join(known())}" in text
    assert "--case=ID" in text


def test_the_plugin_imports_no_torch():
    code = "import sys, conformance.plugin; assert 'torch' not in sys.modules and 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
