"""More than 10,000 corrupted files: each is refused with its name, loads nothing and changes nothing."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lite
from lite.tests.files import attached_two
from lite.tests.toys import all_bits, net, snapshot, trained

OPEN = Path("/dev/fd")
TOLD_AT_ONCE = 5  # of the files that are not refused as they should be


def tiny():
    """A model whose adapter file has a few hundred bytes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2))


def adapted(seed=2):
    return trained(lite.attach(tiny(), lite.LoRAConfig(r=1)), seed=seed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole file's bytes."""
    file = tmp_path_factory.mktemp("whole") / "file"
    lite.save(adapted(), file)
    return file.read_bytes()


def flipped(whole):
    """Every bit."""
    for at, byte in enumerate(whole):
        for bit in range(8):
            yield f"bit {bit} of byte {at}", whole[:at] + bytes([byte ^ 1 << bit]) + whole[at + 1 :]


def truncated(whole):
    """At every offset, from the front and from the back."""
    for at in range(len(whole)):
        yield f"the first {at} bytes", whole[:at]
        yield f"the last {at} bytes", whole[len(whole) - at :]


def replaced(whole):
    """Every byte by the extreme ones, and by what ends a text in JSON."""
    for at in range(len(whole)):
        for byte in b'\0\xff"':
            if whole[at] != byte:
                yield f"byte {at} as {byte}", whole[:at] + bytes([byte]) + whole[at + 1 :]


def shifted(whole):
    """Every byte removed or doubled, and the rest of the file moved."""
    for at in range(len(whole)):
        yield f"without byte {at}", whole[:at] + whole[at + 1 :]
        yield f"byte {at} twice", whole[: at + 1] + whole[at:]


CORRUPTIONS = {function.__name__: function for function in (flipped, truncated, replaced, shifted)}


def overwrite(file, data):
    """As `write_bytes`, which empties a file first: some file systems then wait for the disk, which takes longer than a load."""
    file.touch()
    with file.open("r+b") as handle:
        handle.write(data)
        handle.truncate()


def wrongs(model, file, corrupted):
    """How many files were tried, and what was wrong with `load`'s answers."""
    before, tried, found = snapshot(model), 0, []
    for what, data in corrupted:
        tried += 1
        overwrite(file, data)
        try:
            lite.load(model, file)
        except ValueError as error:
            if str(file) not in str(error):
                found.append(f"{what}: not named in {error}")
        except Exception as error:
            found.append(f"{what}: {error!r}")
        else:
            found.append(f"{what}: loaded")
        if snapshot(model) != before:
            found.append(f"{what}: the model has changed")
            break
    return tried, found


def still_open():
    """How many files this process has open, where the system says so."""
    return sum(1 for _ in OPEN.iterdir()) if OPEN.exists() else None


def test_there_are_more_than_10_000_and_the_whole_one_loads(whole, tmp_path):
    assert sum(1 for corrupt in CORRUPTIONS.values() for _ in corrupt(whole)) > 10_000
    assert all(data != whole for corrupt in CORRUPTIONS.values() for _, data in corrupt(whole))
    file = tmp_path / "file"
    file.write_bytes(whole)
    assert all_bits(lite.load(tiny(), file)) == all_bits(lite.load(adapted(seed=5), file)) == all_bits(adapted())


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_corrupted_file_loads_nothing_and_changes_nothing(corrupt, whole, tmp_path):
    before = still_open()
    tried, found = wrongs(tiny(), tmp_path / "file", corrupt(whole))
    assert len(found) == 0, f"{len(found)} of {tried}, first {found[:TOLD_AT_ONCE]}"
    assert tried == sum(1 for _ in corrupt(whole))
    assert still_open() == before


def test_a_corrupted_file_leaves_an_adapted_model_as_it_was(whole, tmp_path):
    """Every seventh, so that each bit of a byte has its turn."""
    corrupted = [each for corrupt in CORRUPTIONS.values() for each in corrupt(whole)][::7]
    tried, found = wrongs(adapted(seed=5), tmp_path / "file", corrupted)
    assert found == []
    assert tried > 1_000


@settings(
    max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_hypothesis_makes_of_a_file_of_two_adapters(data, good, tmp_path):
    begin = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(begin, len(good)))
    corrupted = good[:begin] + data.draw(st.binary(max_size=2 * (end - begin) + 1)) + good[end:]
    model = data.draw(st.sampled_from([net, attached_two]))()
    if corrupted != good:
        assert wrongs(model, tmp_path / "file", [("this", corrupted)]) == (1, [])
