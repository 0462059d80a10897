"""A file made to do harm: it is refused with its name, quickly, and no code in it is run."""

import json
import os
import pickle
import re
import socket
import struct
import time
from pathlib import Path

import pytest
import torch

import lite
from lite.tests.files import attached_two, forge, forge_adapters, refused
from lite.tests.toys import net

each_model = pytest.mark.parametrize("build", [net, attached_two], ids=["plain", "attached"])
BIG = 2**63


def raw(header, data=b"", length=None):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def parts(good):
    """Header and data of a file."""
    end = 8 + int.from_bytes(good[:8], "little")
    return json.loads(good[8:end]), good[end:]


def said(text):
    """Instead of the header of a good file, this."""
    return lambda good: raw(text, parts(good)[1])


def of_length(length):
    """A good file whose header is said to be so long."""
    return lambda good: struct.pack("<Q", length) + good[8:]


def first(more=0, **changes):
    """A good file that says something else of one tensor; `more` bytes at its end."""

    def change(good):
        header, data = parts(good)
        header["first.lora_A"] |= changes
        return raw(header, data + bytes(more))

    return change


def metadata(value):
    """A good file with other metadata."""
    return lambda good: raw(parts(good)[0] | {"__metadata__": value}, parts(good)[1])


def literal(old, new):
    """A good file with a number replaced that JSON's writer would not write."""

    def change(good):
        header, data = parts(good)
        text = json.dumps(header).encode()
        assert text.count(old) == 1
        return raw(text.replace(old, new), data)

    return change


SHAPE = b'"shape": [2, 6]'
HEADERS = {
    "length 0": of_length(0),
    "length beyond the file": of_length(10**6),
    "length 2⁶³": of_length(BIG),
    "length 2⁶⁴ − 1": of_length(2 * BIG - 1),
    "longer than safetensors reads": said(b"{}" + b" " * 100_000_001),
    "a list": said(b"[]"),
    "null": said(b"null"),
    "no JSON": said(b"import os"),
    "no text": said(b'{"\xff\xfe": 1}'),
    "cut off": said(b'{"a": {"dtype"'),
    "nested without end": said(b'{"a":' * 100_000),
    "a size nested without end": literal(SHAPE, b'"shape": ' + b"[" * 100_000),
    "NaN as a size": literal(SHAPE, b'"shape": [2, NaN]'),
    "infinity as a size": literal(SHAPE, b'"shape": [2, Infinity]'),
    "1e999 as a size": literal(SHAPE, b'"shape": [2, 1e999]'),
    "a float as a size": literal(SHAPE, b'"shape": [2, 6.0]'),
    "negative size": first(shape=[2, -6]),
    "two negative sizes": first(shape=[-2, -6]),
    "size as text": first(shape=["2", "6"]),
    "no shape": first(shape=None),
    "sizes that overflow": first(shape=[BIG, 2]),
    "sizes that overflow to the right one": first(shape=[2**62 + 3, 4]),
    "more than there is memory": first(shape=[2**40], data_offsets=[0, 2**42]),
    "data beyond the file": first(data_offsets=[10**6, 10**6 + 48]),
    "data far beyond the file": first(data_offsets=[BIG, BIG + 48]),
    "data before the file": first(data_offsets=[-48, 0]),
    "data reversed": first(data_offsets=[48, 0]),
    "data in three places": first(data_offsets=[0, 24, 48]),
    "data that overlap": first(data_offsets=[4, 52]),
    "a hole in the data": first(data_offsets=[4, 48], shape=[11]),
    "data behind the last tensor": first(more=8),
    "unknown dtype": first(dtype="F33"),
    "dtype of objects": first(dtype="O"),
    "dtype in lower case": first(dtype="f32"),
    "no dtype": first(dtype=None),
    "wider dtype": first(dtype="F64"),
    "wider dtype and fewer of it": first(dtype="F64", shape=[6]),
    "integers": first(dtype="I32"),
    "complex numbers": first(dtype="C64", shape=[6]),
    "dtype that torch may lack": first(dtype="F6_E2M3", shape=[64]),
    "half a byte": first(dtype="F4", shape=[95]),
    "a tensor without anything": lambda good: raw(parts(good)[0] | {"first.lora_A": {}}, parts(good)[1]),
    "a tensor as text": lambda good: raw(parts(good)[0] | {"first.lora_A": "F32"}, parts(good)[1]),
    "another name twice": literal(b'"first.lora_B"', b'"first.lora_A"'),
    "metadata no text": metadata({"format": 7}),
    "metadata a list": metadata(["lite-adapter"]),
    "metadata null": metadata(None),
    "metadata without adapters": metadata({"format": "lite-adapter", "version": "1"}),
    "unfinished adapters": metadata({"format": "lite-adapter", "version": "1", "adapters": '[{"variant": "lora"'}),
}


@each_model
@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_refused(change, build, good, tmp_path):
    file = tmp_path / "file.safetensors"
    file.write_bytes(change(good))
    assert file.read_bytes() != good
    refused(build(), file, ValueError, re.escape(str(file)))


NAMES = [
    "../../x", "/etc/passwd", "..\\x", "C:\\x", "a\0b", "first.lora_A\0", "", ".", "first", "first.weight", "first.__class__", "training",
    "first.lora_A.start", "first..lora_A", "первый.lora_A", "first.lora_Å", "x" * 100_000,
]  # fmt: skip
each_name = pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))


@each_model
@each_name
def test_a_tensor_under_a_hostile_name_is_refused(name, build, good, tmp_path):
    folder, file = list(tmp_path.parent.iterdir()), tmp_path / "file.safetensors"
    file.write_bytes(good)
    forge(file, lambda metadata, tensors: tensors.update({name: torch.ones(2)}))
    refused(build(), file, ValueError, re.escape(str(file)))
    assert list(tmp_path.iterdir()) == [file]
    assert list(tmp_path.parent.iterdir()) == folder


@each_model
@each_name
def test_a_layer_of_a_hostile_name_is_refused(name, build, good, tmp_path):
    file = tmp_path / "file.safetensors"
    file.write_bytes(good)
    forge_adapters(file, lambda groups: groups[0]["layers"].update({name: {"base": "0" * 64, "options": {}}}))
    refused(build(), file, ValueError, re.escape(str(file)))


@pytest.mark.parametrize("r", [10**6, 10**12, 2**63, 10**30])
def test_a_huge_rank_is_refused_without_the_memory_for_it(r, good, tmp_path):
    file = tmp_path / "file.safetensors"
    file.write_bytes(good)
    forge_adapters(file, lambda groups: groups[0]["options"].update(r=r))
    before = time.perf_counter()
    refused(net(), file, ValueError, re.escape(str(file)))
    assert time.perf_counter() - before < 5


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


PICKLES = {
    "pickle": lambda payload, file: file.write_bytes(pickle.dumps(payload)),
    "pickle of text": lambda payload, file: file.write_bytes(pickle.dumps(payload, protocol=0)),
    "torch.save": lambda payload, file: torch.save({"first.lora_A": payload}, file),
    "torch.save without zip": lambda payload, file: torch.save(payload, file, _use_new_zipfile_serialization=False),
    "pickle in the data": lambda payload, file: file.write_bytes(raw({}, pickle.dumps(payload))),
    "pickle in the header": lambda payload, file: file.write_bytes(raw(pickle.dumps(payload, protocol=0))),
}


@each_model
@pytest.mark.parametrize("name", ["file.safetensors", "file"])
@pytest.mark.parametrize("write", PICKLES.values(), ids=PICKLES)
def test_no_code_is_run(write, name, build, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / name
    write(Payload(marker), file)
    refused(build(), file, ValueError, re.escape(str(file)))
    assert not marker.exists()


def test_the_payload_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def socket_at(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_FILES = {
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a socket": socket_at,
}


@pytest.mark.skipif(os.name == "nt", reason="there is none of these")
@each_model
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_refused_and_never_waited_for(make, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    make(Path("file"))
    refused(build(), "file", OSError, "file")


def test_an_impossible_path_is_refused(tmp_path):
    refused(net(), "fi\0le", (ValueError, OSError), None)
    refused(net(), tmp_path / ("x" * 10_000), OSError, "x" * 100)
    refused(net(), tmp_path / "file" / "file", FileNotFoundError, re.escape(str(tmp_path / "file")))


def test_a_name_of_the_base_does_not_reach_it(good, tmp_path):
    """The file's own layer, and a tensor for the base's weight."""
    file, model = tmp_path / "file", net()
    file.write_bytes(good)
    forge(file, lambda metadata, tensors: tensors.update({"first.weight": torch.zeros(8, 6), "norm.weight": torch.zeros(8)}))
    refused(model, file, ValueError, r"extra first\.weight, norm\.weight")
    assert model.first.weight.any()


def test_the_good_one_loads(good, tmp_path):
    file = tmp_path / "file.safetensors"
    file.write_bytes(good)
    forge(file, lambda metadata, tensors: None)
    lite.load(net(), file)
