"""Recordings: verified when they are read, run on their own numbers, and on no others."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refs import lora_xs, recorded
from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.problem import problem
from refs.subject import run_at

NAME = "lora_lite/lora_xs/vec_1"
CASE = Case(d_in=16, d_out=24, rank=8, alpha=16.0, batch=(2, 5), weight=f"recorded:{NAME}")
LAYER: RecordedLayer = lora_xs.RECORDED


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """One recording and its table, to be damaged."""
    file = tmp_path / f"{NAME}.safetensors"
    file.parent.mkdir(parents=True)
    shutil.copy(recorded.VECTORS / f"{NAME}.safetensors", file)
    shutil.copy(recorded.VECTORS / recorded.SUMS, tmp_path)
    return file


def test_every_recording_is_listed_and_whole() -> None:
    """And every file in the folders of recordings is in the table."""
    files = {path.relative_to(recorded.VECTORS).with_suffix("").as_posix() for path in recorded.VECTORS.glob("*/*/*.safetensors")}
    assert files == set(recorded.names("lora_lite"))
    for name in files:
        assert {"repo", "commit", "file", "sha256", "licence", "config", "at_init"} <= recorded.read(name).about.keys()


@pytest.mark.parametrize("place", [8, 2000, -1])  # header, numbers, the last byte
def test_a_changed_byte_is_seen(copied: Path, place: int) -> None:
    data = bytearray(copied.read_bytes())
    data[place] ^= 1
    copied.write_bytes(data)
    with pytest.raises(ValueError, match=r"vec_1\.safetensors has SHA-256 .{64}, SHA256SUMS says .{64}: it was changed or damaged"):
        recorded.read(NAME, copied.parents[2])


def test_a_missing_file_and_an_unknown_name(copied: Path) -> None:
    copied.unlink()
    with pytest.raises(ValueError, match=r"SHA256SUMS lists lora_lite/lora_xs/vec_1\.safetensors, and it is not there"):
        recorded.read(NAME, copied.parents[2])
    with pytest.raises(ValueError, match=r"unknown recording '\.\./vec_1'; SHA256SUMS lists lora_lite/lora_xs/vec_0"):
        recorded.read("../vec_1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": 17}, r"weight is \(24, 16\); the case says \(24, 17\)"),
        ({"batch": (2, 6)}, "x is"),
        ({"bias": False}, "has a bias"),
    ],
)
def test_a_case_of_other_sizes_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem(CASE.but(**changes), lora_xs.FORMULA)


def test_another_rank_than_the_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vec_1 holds .*\(8, 8\).*, the method has .*\(4, 4\)"):
        problem(CASE.but(rank=4), lora_xs.FORMULA)


def test_the_case_runs_on_the_recorded_numbers_as_they_are() -> None:
    """Weights that float32 cannot hold included; away from the recorded state only weight, bias and input are the file's."""
    numbers, tensors = problem(CASE, lora_xs.FORMULA), recorded.read(NAME).tensors
    for value, name in ((numbers.weight, "weight"), (numbers.x, "x"), (numbers.bias, "bias"), (numbers.cotangent, "g")):
        assert value is not None
        assert value.equal(tensors[name])
    assert numbers.parameters["lora_R"].equal(tensors["param.lora_R"])
    assert numbers.frozen["lora_A"].equal(tensors["buffer.lora_A"])
    other = problem(CASE.but(state="init"), lora_xs.FORMULA)
    assert other.weight.equal(tensors["weight"])
    assert not other.parameters["lora_R"].equal(tensors["param.lora_R"])


def test_the_replay_answers_as_recorded_and_on_no_other_numbers() -> None:
    numbers, tensors = problem(CASE, lora_xs.FORMULA), recorded.read(NAME).tensors
    trace = run_at(LAYER.build(CASE, numbers), CASE, numbers, lora_xs.FORMULA)
    assert trace["output"].equal(tensors["y"])
    assert trace["grad.lora_R"].equal(tensors["grad.lora_R"])
    assert trace["grad.x"].equal(tensors["grad.x"])
    others = ({"weight": 2 * numbers.weight}, {"parameters": {"lora_R": torch.zeros(8, 8)}}, {"cotangent": -numbers.cotangent})
    for other in others:
        with pytest.raises(LookupError, match="recorded lora-lite was not run on these numbers"):
            LAYER.build(CASE, replace(numbers, **other))
    subject = LAYER.build(CASE, numbers)
    with torch.no_grad():
        subject["lora_A"].add_(1)
    with pytest.raises(LookupError, match="not recorded with these values"):
        subject.call(numbers.x)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"dtype": "float32"}, "in float64"), ({"state": "init"}, "state perturbed"), ({"mode": "eval"}, "train mode"), ({"weight": "decay"}, "own numbers")],
)  # fmt: skip
def test_other_runs_are_refused(changes: dict[str, object], reason: str) -> None:
    assert LAYER.refuses(CASE) is None
    assert reason in str(LAYER.refuses(CASE.but(**changes)))
