"""A file that is damaged or foreign is refused with a reason, and the model stays as it was."""

import functools
import json
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import lite
from lite.tests.files import TWO, attached_two, forge, forge_adapters, refused
from lite.tests.toys import adapted, all_bits, net, snapshot


def write(content):
    return lambda file: file.write_bytes(content(file.read_bytes()))


def tensors(change):
    return lambda file: forge(file, lambda metadata, held: change(held))


def metadata(**changes):
    return lambda file: forge(file, lambda held, _: held.update(changes))


def without(key):
    return lambda file: forge(file, lambda held, _: held.pop(key))


def adapters(change):
    return functools.partial(forge_adapters, change=change)


def options(**changes):
    return adapters(lambda groups: groups[0]["options"].update(changes))


def own(**changes):
    return adapters(lambda groups: groups[0]["layers"]["first"].update(changes))


def replaced(name, change):
    return tensors(lambda held: held.update({name: change(held[name])}))


OF_ATTACH = ("no config was given", "DoRAConfig matches no layer", "two configs target last")  # these name the config instead
LAYER = {"base": "0" * 64, "options": {}}
INCOMPLETE = "is no complete safetensors file"
UNREADABLE = "unreadable list of adapters"
DAMAGES = {
    "empty": (write(lambda b: b""), INCOMPLETE),
    "seven bytes": (write(lambda b: b[:7]), INCOMPLETE),
    "length of the header alone": (write(lambda b: b[:8]), INCOMPLETE),
    "half": (write(lambda b: b[: len(b) // 2]), INCOMPLETE),
    "last byte missing": (write(lambda b: b[:-1]), INCOMPLETE),
    "one byte more": (write(lambda b: b + b"\0"), INCOMPLETE),
    "zeros": (write(lambda b: bytes(len(b))), INCOMPLETE),
    "text": (write(lambda b: b"once upon a time"), INCOMPLETE),
    "torch's own format": (lambda file: torch.save({"first.lora_A": torch.ones(2, 6)}, file), INCOMPLETE),
    "safetensors without metadata": (lambda file: save_file({"first.lora_A": torch.ones(2, 6)}, file), "format None, should be"),
    "safetensors of transformers": (lambda file: save_file({"w": torch.ones(2)}, file, {"format": "pt"}), "format 'pt', should be"),
    "no format": (without("format"), "format None, should be 'lite-adapter'"),
    "no version": (without("version"), "format version None, this release reads '2'"),
    "later version": (metadata(version="3"), "format version '3', this release reads '2'"),
    "no adapters": (without("adapters"), UNREADABLE),
    "adapters not JSON": (metadata(adapters="[{"), UNREADABLE),
    "adapters nested without end": (metadata(adapters="[" * 100_000), UNREADABLE),
    "adapters a number": (metadata(adapters="7"), UNREADABLE),
    "adapters a mapping": (metadata(adapters='{"variant": "lora"}'), UNREADABLE),
    "an empty list": (metadata(adapters="[]"), "no config was given"),
    "unknown variant": (adapters(lambda g: g[0].update(variant="lola")), r"variant 'lola' is unknown; known: .*lora"),
    "variant no text": (adapters(lambda g: g[0].update(variant=["lora"])), UNREADABLE),
    "no variant": (adapters(lambda g: g[0].pop("variant")), UNREADABLE),
    "no options": (adapters(lambda g: g[0].pop("options")), UNREADABLE),
    "options a list": (adapters(lambda g: g[0].update(options=[])), UNREADABLE),
    "no layers": (adapters(lambda g: g[0].pop("layers")), UNREADABLE),
    "layers a number": (adapters(lambda g: g[0].update(layers=3)), UNREADABLE),
    "unknown option": (options(rank=2), "DoRAConfig has no option rank; its options are"),
    "option out of range": (options(alpha=-1), "DoRAConfig: alpha must be .*, got -1"),
    "option no number": (options(alpha=float("nan")), "DoRAConfig: alpha must be .*, got nan"),
    "option beyond every float": (options(alpha=10**400), "DoRAConfig: alpha must be"),
    "option of another type": (options(r=2.0), r"DoRAConfig: r must be .*, got 2\.0"),
    "dtype of integers": (options(dtype="int8"), r"DoRAConfig: dtype must be .*, got torch\.int8"),
    "dtype unknown": (options(dtype="float7"), "DoRAConfig: dtype must be .*, got 'float7'"),
    "pattern broken": (options(target_names=["("]), "DoRAConfig: target_names holds"),
    "other rank": (options(r=3), r"first\.lora_A is torch.float32 \(2, 6\), should be floating-point \(3, 6\)"),
    "pattern that matches nothing": (options(target_names=["nowhere"]), "DoRAConfig matches no layer"),
    "pattern that overlaps": (options(target_names=["first", "last"]), "two configs target last"),
    "a fingerprint missing": (adapters(lambda g: g[0]["layers"].clear()), "another model.*only in the model first"),
    "a layer more": (adapters(lambda g: g[1]["layers"].update(norm=LAYER)), "another model.*only in the file norm"),
    "a layer no mapping": (adapters(lambda g: g[0]["layers"].update(first="0" * 64)), UNREADABLE),
    "a layer a list": (adapters(lambda g: g[0]["layers"].update(first=["0" * 64, {}])), UNREADABLE),
    "a layer without options": (adapters(lambda g: g[0]["layers"]["first"].pop("options")), UNREADABLE),
    "a layer without fingerprint": (adapters(lambda g: g[0]["layers"]["first"].pop("base")), UNREADABLE),
    "a fingerprint no text": (own(base=7), rf"{UNREADABLE}: a layer should have base"),
    "another fingerprint": (adapters(lambda g: g[1]["layers"].update(last=LAYER)), "another base: last had fingerprint '000"),
    "a layer's options a list": (own(options=[]), rf"{UNREADABLE}: a layer should have .* options"),
    "a layer's options unknown": (own(options={"rank": 2}), "unreadable options for first .*DoRAConfig has no option rank"),
    "a layer's options out of range": (own(options={"r": 0}), "unreadable options for first .*DoRAConfig: r must be .*, got 0"),
    "a layer of another rank": (own(options={"r": 3}), r"first\.lora_A is torch.float32 \(2, 6\), should be .*\(3, 6\)"),
    "a layer left out": (own(options=None), r"missing none, extra first\.lora_A"),
    "a group missing": (adapters(lambda g: g.pop()), r"other tensors than its config needs: missing none, extra last\.lora_A"),
    "tensor missing": (tensors(lambda t: t.pop("first.lora_m")), r"missing first\.lora_m, extra none"),
    "buffer missing": (tensors(lambda t: t.pop("last.lora_wnorm")), r"missing last\.lora_wnorm, extra none"),
    "tensor extra": (tensors(lambda t: t.update(more=torch.ones(1))), "missing none, extra more"),
    "tensor renamed": (tensors(lambda t: t.update(x=t.pop("first.lora_A"))), r"missing first\.lora_A, extra x"),
    "no tensors": (tensors(lambda t: t.clear()), r"missing first\.lora_A, first\.lora_B.* and \d more, extra none"),
    "transposed": (
        replaced("last.lora_A", lambda t: t.T.contiguous()),
        r"last\.lora_A is torch.float32 \(8, 3\), should be .*\(3, 8\)",
    ),
    "flattened": (replaced("last.lora_A", torch.flatten), r"last\.lora_A is torch.float32 \(24,\), should be .*\(3, 8\)"),
    "scalar as vector": (
        replaced("last.lora_lambda", lambda t: t[None]),
        r"last\.lora_lambda is torch.float32 \(1,\), should be .*\(\)",
    ),
    "integers": (replaced("first.lora_B", torch.Tensor.int), r"first\.lora_B is torch.int32 \(8, 2\), should be floating-point"),
    "booleans": (replaced("first.lora_B", torch.Tensor.bool), r"first\.lora_B is torch.bool"),
    "one tensor of another dtype": (replaced("first.lora_B", torch.Tensor.double), r"first\.lora_[AB]"),
}


def test_the_good_file_loads(good, tmp_path):
    (tmp_path / "file").write_bytes(good)
    forge(tmp_path / "file", lambda metadata, tensors: None)
    forge_adapters(tmp_path / "file", lambda groups: None)
    assert (
        all_bits(lite.load(net(), tmp_path / "file"))
        == all_bits(lite.load(attached_two(), tmp_path / "file"))
        == all_bits(adapted(TWO))
    )


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused(damage, message, good, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(good)
    damage(file)
    text = refused(net(), file, ValueError, re.compile(message, re.DOTALL))
    assert str(file) in text or message in OF_ATTACH


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_leaves_an_adapted_model_as_it_was(damage, message, good, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(good)
    damage(file)
    refused(attached_two(), file, (ValueError, RuntimeError), None)


@settings(
    max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_loads_nothing(part, good, tmp_path):
    file, model = tmp_path / "file", net()
    file.write_bytes(good[: int(part * len(good))])
    refused(model, file, ValueError, INCOMPLETE)


@settings(
    max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_header_with_another_byte_loads_a_whole_adapter_or_nothing(data, good, tmp_path):
    header = 8 + int.from_bytes(good[:8], "little")
    at = data.draw(st.integers(0, header - 1))
    byte = data.draw(st.integers(0, 255))
    file, model = tmp_path / "file", net()
    file.write_bytes(good[:at] + bytes([byte]) + good[at + 1 :])
    before = snapshot(model)
    try:
        lite.load(model, file)
    except ValueError:
        assert snapshot(model) == before
    else:
        assert sorted(all_bits(model)) == sorted(all_bits(adapted(TWO)))
        assert snapshot(lite.detach(model)) == before


def test_the_header_is_read_by_version_first(good, tmp_path):
    (tmp_path / "file").write_bytes(good)
    metadata(version="7", adapters=json.dumps({"a": "later release's"}))(tmp_path / "file")
    refused(net(), tmp_path / "file", ValueError, "format version '7'")
