"""Whatever happens in the middle of a `save`, under the file's name stands the old file or the complete new one."""

import collections
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lite
from lite.tests.files import TWO, content
from lite.tests.toys import adapted, all_bits, net, trained

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="faults are planted in forks")
KINDS = ("killed", "ENOSPC", "EROFS", "EIO", "cut", "full")


@pytest.fixture(scope="module")
def faults(good, tmp_path_factory):
    """What became of each save, by the kind of its fault."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "old").write_bytes(good)
    done = subprocess.run([sys.executable, "-m", "lite.tests.faults", folder], check=True, capture_output=True, text=True)
    by_kind = collections.defaultdict(list)
    for line in done.stdout.splitlines():
        told = json.loads(line)
        by_kind[told["kind"]].append(told)
    return by_kind


@pytest.fixture(scope="module")
def versions(good, tmp_path_factory):
    """What an old and a new file hold."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "old").write_bytes(good)
    lite.save(trained(adapted(TWO), seed=7), folder / "new")
    return {name: content(folder / name) for name in ("old", "new")}


def version(told, versions):
    """Which file stands there; None for neither."""
    there = content(Path(told["file"]))
    return next((name for name, held in versions.items() if there == held), None)


def left(told):
    """What else there is in the folder."""
    return [path.name for path in Path(told["file"]).parent.iterdir() if path.name != "file"]


def test_every_fault_was_there(faults):
    assert set(faults) == {"none", *KINDS}
    calls = len(faults["none"][0]["calls"])
    assert calls >= 4  # a name, the data, its new name, the folder
    assert {kind: len(faults[kind]) for kind in ("killed", "ENOSPC")} == {"killed": calls, "ENOSPC": calls}
    assert {told["signal"] for told in faults["killed"]} == {"SIGKILL"}
    assert {told["signal"] for told in faults["cut"]} == {"SIGXFSZ"}
    assert {told["error"] for told in faults["full"]} == {"OSError"}
    assert len(faults["cut"]) == len(faults["full"]) >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_the_old_one_or_the_new_one(faults, versions, kind):
    assert versions["old"] != versions["new"]
    stands = [version(told, versions) for told in faults[kind]]
    assert stands == sorted(stands, key=["old", "new"].index)
    assert stands[0] == "old"
    for told in faults[kind]:
        lite.load(net(), told["file"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_told_and_what_was_begun_is_removed(faults, versions, kind):
    for told in faults[kind]:
        if "signal" in told:  # the dead cannot tidy up, nor tell
            continue
        assert told["error"] == "OSError" or version(told, versions) == "new", told
        removing = any(call.startswith("os.remove") for call in told["calls"][told["at"] - 1 : told["at"]])
        assert left(told) == [] or removing, told


def test_what_a_dead_process_left_is_in_nobodys_way(faults, versions, tmp_path):
    for told in faults["killed"] + faults["cut"]:
        folder = shutil.copytree(Path(told["file"]).parent, tmp_path / told["kind"] / str(told["at"]))
        before = {path.name for path in folder.iterdir()}
        lite.save(trained(adapted(TWO), seed=7), folder / "file")
        assert content(folder / "file") == versions["new"]
        assert {path.name for path in folder.iterdir()} == before  # what is aside may be another's, who is writing still


def test_data_are_on_the_disk_before_the_name_and_the_name_before_save_returns(faults):
    """Power may fail: rename before the data's fsync leaves an empty file, no fsync of the folder the old one after `save` returned."""
    told = faults["none"][0]
    calls = told["calls"]
    assert told["error"] is None
    assert left(told) == []
    assert calls.index("fsync file") < calls.index("os.rename file") < calls.index("fsync .")
    assert "open file" not in calls  # never written in place


def test_a_file_where_the_folder_should_be_is_an_os_error(tmp_path):
    model = adapted(TWO)
    (tmp_path / "folder").write_bytes(b"a file")
    before = all_bits(model)
    with pytest.raises(OSError, match="folder"):
        lite.save(model, tmp_path / "folder" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder").read_bytes() == b"a file"
    assert all_bits(model) == before
