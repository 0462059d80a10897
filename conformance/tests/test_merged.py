"""Runs of one variant each, put together, are the run of all: the same measurements, the same pages."""

import dataclasses
import os
import subprocess
import sys

import pytest

from conformance import floor_run, merged, run_folder
from conformance.__main__ import main

VARIANTS = ("ia3", "ia3_ff")
pytestmark = pytest.mark.xdist_group("merged")  # one worker: the runs are made once


def run(folder, *arguments):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--pyargs",
        "conformance.suites",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *arguments,
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    folder.mkdir()
    (folder / "pytest.ini").touch()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=kept | {"HF_HUB_OFFLINE": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / ".conformance"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each variant, and one of both."""
    root = tmp_path_factory.mktemp("runs")
    apart = [run(root / name, "--variant", name) for name in VARIANTS]
    return *apart, run(root / "whole", "--variant", VARIANTS[0], "--variant", VARIANTS[1])


def text(folder):
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}


def test_runs_of_one_variant_each_are_the_run_of_both(runs, tmp_path):
    *apart, whole = runs
    merged.merge(apart[::-1], tmp_path / "all")
    assert text(tmp_path / "all") == text(whole)
    assert {c.variant: c.complete for c in run_folder.read(tmp_path / "all")} == dict.fromkeys(VARIANTS, True)


def test_what_each_was_made_with_stays(runs, tmp_path):
    one, two, _ = runs
    other = tmp_path / "other"
    run_folder.write(other, [certificate_of(two, {"processor": "another one"})])
    merged.merge([one, other], tmp_path / "all")
    assert [dict(c.machine)["processor"] for c in run_folder.read(tmp_path / "all")] == [
        run_folder.machine()["processor"],
        "another one",
    ]


def certificate_of(folder, machine):
    return dataclasses.replace(run_folder.read(folder)[0], machine=machine)


def test_floors_are_put_together(runs, tmp_path):
    folders = [tmp_path / name for name in VARIANTS]
    for name, folder, before in zip(VARIANTS, folders, runs, strict=False):
        run_folder.write(folder, run_folder.read(before))
        floor_run.write(folder, {name: ()})
    merged.merge(folders, tmp_path / "all")
    assert floor_run.read(tmp_path / "all") == dict.fromkeys(VARIANTS, ())


def test_a_variant_that_ran_twice_is_told(runs, tmp_path):
    one, _, whole = runs
    with pytest.raises(ValueError, match=r"ia3 is in .*whole.* and in .*; leave one of them out"):
        merged.merge([whole, one], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_full_run_wins_over_a_narrowed_one(runs, tmp_path):
    one, *_ = runs
    narrowed = tmp_path / "narrowed"
    run_folder.write(narrowed, [dataclasses.replace(run_folder.read(one)[0], complete=False)])
    for order in ([one, narrowed], [narrowed, one]):
        merged.merge(order, tmp_path / "all")
        assert run_folder.read(tmp_path / "all")[0].complete


def test_a_folder_without_a_run_is_told_on_the_command_line(tmp_path, capsys):
    assert main(["report", "--merge", str(tmp_path / "nowhere"), "--run-folder", str(tmp_path / "all")]) == 2
    assert "holds no run" in capsys.readouterr().err
