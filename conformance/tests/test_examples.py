"""The examples as strangers run them, and what `certify.tests` makes of a broken layer, a narrowed run and a divergence of its own."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from conformance import Divergence, certify
from conformance.examples.test_functional import layer
from conformance.suite_of import suite_of
from conformance.verdict import worst

EXAMPLES = Path(conformance.__file__).with_name("examples")
BROKEN = (EXAMPLES / "test_functional.py").read_text().replace("* g", "* (g * 1.000001)")


def run(folder, *arguments):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=kept, check=False)


def theirs(folder, source):
    (folder / "pytest.ini").touch()
    (folder / "test_mine.py").write_text(source)
    return folder


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("test_*.py")))
def test_an_example_is_the_method_and_has_its_page_and_badge(tmp_path, example):
    (tmp_path / "pytest.ini").touch()
    shutil.copy(EXAMPLES / example, tmp_path)
    done = run(tmp_path, example)
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = (tmp_path / "reports").glob("*.md")
    title, badge, verdict = page.read_text().split("\n\n")[:3]
    assert re.fullmatch(rf"# {page.stem}: is it \w+\?", title)
    assert badge == f"![{page.stem}: faithful](badges/{page.stem}.svg)"
    assert verdict.startswith("**faithful**. ")
    assert {path.name for path in (tmp_path / "reports" / "badges").iterdir()} == {f"{page.stem}.json", f"{page.stem}.svg"}
    assert not (tmp_path / ".conformance").exists()  # that is for this project's own runs


def test_a_broken_layer_fails_cell_by_cell_and_its_page_shows_both_sides(tmp_path):
    done = run(theirs(tmp_path, BROKEN), "-n", "2")
    assert done.returncode == 1
    assert "FAILED test_mine.py::test_scaled[closed_form-forward]" in done.stdout
    page = (tmp_path / "reports" / "functional-ia3.md").read_text()
    assert "**buggy**" in page
    assert "ia3: forward of yours against closed form" in page
    assert "1. **forward** against closed form: fails" in page


def test_a_narrowed_run_keeps_the_page_that_is_there(tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "functional-ia3.md").write_text("of a whole run")
    done = run(theirs(tmp_path, BROKEN), "-k", "forward")
    assert "functional-ia3: no page of a narrowed run" in done.stdout
    assert (tmp_path / "reports" / "functional-ia3.md").read_text() == "of a whole run"


def test_two_tests_of_one_page_are_refused(tmp_path):
    done = run(theirs(tmp_path, BROKEN + BROKEN[BROKEN.index("test_scaled") :].replace("test_scaled", "test_again")))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_mine.py::test_again and test_mine.py::test_scaled write the same page reports/functional-ia3.md" in done.stderr


def test_a_page_that_cannot_be_written_is_no_success(tmp_path):
    (tmp_path / "reports").write_text("a file")
    done = run(theirs(tmp_path, (EXAMPLES / "test_functional.py").read_text()), "-n", "2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: measurements and pages were not written" in done.stdout


@pytest.mark.parametrize("more", [{"name": "../up"}, {"name": "my layer"}, {"folder": ""}])
def test_a_page_has_a_plain_name_and_a_folder(more):
    with pytest.raises(ValueError, match="a page needs a folder, and a name"):
        jobs_of(**more)


def jobs_of(**more):
    """What the tests of a layer would run."""
    made = certify.tests(layer, "ia3", {"lora_g": "g"}, **more)
    (mark,) = (mark for mark in made.pytestmark if mark.name == "parametrize")
    return [job for _, job in mark.args[1]]


def test_references_are_chosen_by_name():
    assert {job.reference.name for job in jobs_of(references=["peft"]) if job.reference} == {"peft"}
    assert any(job.reference is None for job in jobs_of(references=["peft"]))
    with pytest.raises(ValueError, match=r"unknown reference nosuch; known: closed form, peft"):
        jobs_of(references=["nosuch"])
    with pytest.raises(ValueError, match="references is empty"):
        jobs_of(references=[])


def test_a_divergence_of_theirs_has_to_be_there():
    gone = Divergence(id="mine", check="forward", reference="peft", size=(1, 2), reason="meant", link="https://example.org")
    (job,) = (job for job in jobs_of(references=["peft"], divergences=[gone]) if job.check.name == "forward")
    assert any("stale?" in m.should for m in job.measure())
    with pytest.raises(ValueError, match=r"divergence mine names no cell"):
        jobs_of(divergences=[Divergence(id="mine", check="foward", reference="peft", size=(1, 2), reason="", link="")])


class Oracle:
    """A reference of theirs, which borrows what peft computes."""

    name, version, equation, is_fixed, other_start = "my oracle", "1", "y", False, None
    peft = next(reference for reference in suite_of("ia3").references if reference.name == "peft")
    missing, refuses, build = peft.missing, peft.refuses, peft.build


def test_a_divergence_that_nobody_would_verify_is_refused():
    elsewhere = Divergence(id="mine", check="forward", reference="peft", size=(1, 2), reason="", link="")
    with pytest.raises(ValueError, match="divergence mine is about forward against peft, which is not asked"):
        jobs_of(references=["closed form"], divergences=[elsewhere])
    with pytest.raises(ValueError, match=r"size should be the smallest and the largest error, got \(2, 1\)"):
        dataclasses.replace(elsewhere, size=(2, 1))
    with pytest.raises(ValueError, match="no regular expression"):
        dataclasses.replace(elsewhere, what="(")


def test_a_reference_of_theirs_is_one_more_column():
    (job,) = (job for job in jobs_of(references=[Oracle()]) if job.check.name == "forward")
    assert job.reference.name == "my oracle"
    assert worst(job.measure()) == "identical"
