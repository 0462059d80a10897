"""What validators cannot say of the workflows: their matrix is the list of variants, their summary fits."""

import re
from pathlib import Path

import pytest

from conformance import run_folder
from conformance.certificate import Certificate
from conformance.variants import known
from conformance.verdict import Measurement, Verdict

WORKFLOWS = {file.stem: file.read_text() for file in (Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml")}


def test_no_variant_is_written_by_hand():
    assert not re.search("|".join(rf"\b{name}\b" for name in known()), "".join(WORKFLOWS.values()))
    assert "python -m conformance list --json" in WORKFLOWS["ci"]
    assert "fromJSON(needs.list.outputs.variants)" in WORKFLOWS["ci"]


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_actions_are_pinned_by_commit_and_permissions_are_least(workflow):
    uses = re.findall(r"uses: (\S+)", workflow)
    assert uses
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in uses)
    assert re.search(r"^permissions: \{\}$", workflow, flags=re.MULTILINE)
    assert set(re.findall(r"^      (\w[\w-]*: (?:read|write))$", workflow, flags=re.MULTILINE)) == {"contents: read"}


def red(number):
    return Measurement(
        variant="lora", candidate="lite", reference="peft", version="peft 0", check="forward", verdict=Verdict.FAILS,
        case=f"Case({number})", case_id=str(number), what="output", got="wrong" * 100, should="right",
    )  # fmt: skip


def test_the_job_summary_has_every_failure_as_long_as_it_fits_into_a_mebibyte(tmp_path):
    run_folder.write(tmp_path, [Certificate("lora", tuple(red(n) for n in range(10)))])
    short = run_folder.job_summary(tmp_path)
    assert short.count("again:") == 10
    run_folder.write(tmp_path, [Certificate("lora", tuple(red(n) for n in range(5000)))])
    long = run_folder.job_summary(tmp_path)
    assert len(long.encode()) < 2**20
    assert "lora: buggy" in long
