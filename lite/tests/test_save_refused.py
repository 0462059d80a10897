"""A save that fails leaves the old file, the folder and the model as they were."""

from pathlib import Path

import pytest

import lite
from lite.tests.files import CONFIGS
from lite.tests.toys import adapted, net, snapshot


@pytest.fixture
def model():
    """A Net with two trained adapters."""
    return adapted(CONFIGS["two"])


@pytest.fixture
def old(tmp_path):
    """An older file."""
    file = tmp_path / "file"
    lite.save(adapted(CONFIGS["lora"]), file)
    return file


def failed(model, file, error, message=None):
    folder = {path: path.read_bytes() if path.is_file() else None for path in file.parent.rglob("*")}
    before = snapshot(model)
    with pytest.raises(error, match=message):
        lite.save(model, file)
    assert {path: path.read_bytes() if path.is_file() else None for path in file.parent.rglob("*")} == folder
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [OSError, MemoryError, KeyboardInterrupt], ids=lambda e: e.__name__)
def test_writing_that_breaks_off_leaves_the_old_file(model, old, monkeypatch, error):
    def broken(self, content):
        self.touch()
        raise error("planted")

    monkeypatch.setattr(Path, "write_bytes", broken)
    failed(model, old, error, "planted")


def test_a_replacement_that_fails_leaves_the_old_file(model, old, monkeypatch):
    def broken(self, target):
        raise PermissionError("planted")

    monkeypatch.setattr(Path, "replace", broken)
    failed(model, old, PermissionError, "planted")


def test_nothing_to_save_leaves_the_old_file(old):
    failed(
        net(),
        old,
        RuntimeError,
        r"nothing is attached to this model, so there is nothing to save to .*file; call lite\.attach first",
    )
    failed(lite.detach(adapted(CONFIGS["lora"])), old, RuntimeError, "nothing is attached")


def test_a_folder_is_no_file(model, old):
    folder = old.parent / "folder"
    folder.mkdir()
    failed(model, folder, OSError)


def test_a_folder_that_is_missing_is_an_os_error(model, tmp_path):
    with pytest.raises(OSError, match="missing"):
        lite.save(model, tmp_path / "missing" / "file")
    assert list(tmp_path.iterdir()) == []
