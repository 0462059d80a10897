"""Packages that an author's code needs: told, and done without where traces are recorded."""

import dataclasses

import pytest

from refs import eva
from refs.authors import manifest, recording
from refs.authors.checkout import VARIABLE
from refs.authors.layer import AuthorLayer
from refs.authors.manifest import Manifest

TOML = f"""
repository = "https://example.org/some/one"
commit = "{"0" * 40}"
licence = "none stated"
equation = "y = x"
where = "nowhere"
requires = ["torch", "torch==0.0.1", "no-such-package"]
files = {{}}
map = {{}}
"""


def test_what_is_missing_or_of_another_version_is_told(tmp_path):
    (tmp_path / "some.toml").write_text(TOML, encoding="utf-8")
    assert manifest.read("some", tmp_path).unmet() == ["torch==0.0.1", "no-such-package"]


@pytest.fixture
def without(monkeypatch, tmp_path):
    """EVA's checkout is there, its packages are not."""
    (tmp_path / "ml-jku" / "EVA").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(Manifest, "unmet", lambda self: ["torch-incremental-pca==0.0.13"])
    return AuthorLayer("eva", eva.FORMULA, ())


def test_without_its_packages_recorded_traces_serve(without):
    assert without.missing() is None
    assert without.version.endswith(", recorded")


def test_without_packages_and_traces_both_are_told(without, monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "verify", lambda manifest: None)
    alone = dataclasses.replace(without, vectors=tmp_path)
    assert "needs torch-incremental-pca==0.0.13, not installed here" in alone.missing()


def test_recording_asks_for_the_package(without, monkeypatch):
    monkeypatch.setattr(recording, "verify", lambda manifest: None)
    with pytest.raises(
        recording.RecordingError, match=r"eva needs torch-incremental-pca==0\.0\.13, not installed here: pip install"
    ):
        recording.record(without.manifest, [])
