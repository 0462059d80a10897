"""A file for another model, or for other configs than are attached, is refused with a reason, and the model stays as it was."""

import re

import pytest
import torch
from torch import nn

import lite
from lite.tests.files import TWO, attached_two, refused
from lite.tests.toys import all_bits, net

each_state = pytest.mark.parametrize("start", [net, attached_two], ids=["plain", "attached"])


@each_state
def test_a_missing_file_is_named(start, tmp_path):
    refused(start(), tmp_path / "gone", FileNotFoundError, f"there is no file {re.escape(str(tmp_path / 'gone'))}")
    refused(start(), tmp_path, FileNotFoundError, re.escape(str(tmp_path)))


OTHERS = {
    "another option": [lite.DoRAConfig(r=2, alpha=4, target_names=["first"]), TWO[1]],
    "another method": [lite.LoRAConfig(r=2, alpha=3, target_names=["first"]), TWO[1]],
    "fewer": [TWO[0]],
    "another dtype": [lite.DoRAConfig(r=2, alpha=3, target_names=["first"], dtype=torch.float32), TWO[1]],
}


@pytest.mark.parametrize("configs", OTHERS.values(), ids=OTHERS)
def test_other_configs_are_refused_with_both_sides_shown(configs, good, tmp_path):
    (tmp_path / "file").write_bytes(good)
    message = refused(
        lite.attach(net(), configs), tmp_path / "file", RuntimeError, r"attached, .* holds .*; call lite\.detach first"
    )
    there, held = message.partition(" holds ")[::2]
    assert all(repr(config) in there for config in configs)
    assert all(repr(config) in held for config in TWO)


def test_adapters_on_a_part_of_the_model_are_refused(good, tmp_path):
    (tmp_path / "file").write_bytes(good)
    model = net()
    lite.attach(model.first, lite.LoRAConfig())
    refused(model, tmp_path / "file", RuntimeError, r"lora is attached already \(to first\)")


def flip(tensor):
    """Change the lowest bit of one number."""
    tensor.data.view(torch.int32).view(-1)[-1] ^= 1


BASES = {
    "a bit of a weight": lambda model: flip(model.last.weight),
    "a bit of a bias": lambda model: flip(model.first.bias),
    "no bias": lambda model: model.last.register_parameter("bias", None),
    "another dtype": lambda model: model.double(),
    "other weights": lambda model: nn.init.normal_(model.first.weight),
    "another shape": lambda model: setattr(model, "first", nn.Linear(7, 8)),
}


@each_state
@pytest.mark.parametrize("change", BASES.values(), ids=BASES)
def test_another_base_is_refused(change, start, good, tmp_path):
    (tmp_path / "file").write_bytes(good)
    model = start()
    if start is attached_two and change is BASES["another shape"]:
        model = lite.detach(model)
    change(model)
    refused(
        model,
        tmp_path / "file",
        ValueError,
        r"saved on another base: (first|last) had fingerprint '[0-9a-f]+, this model's torch\.float",
    )


def test_equal_values_of_another_dtype_are_another_base(tmp_path):
    model = nn.Linear(6, 4)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    lite.save(lite.attach(model, lite.LoRAConfig()), tmp_path / "file")
    model = lite.detach(model).bfloat16()
    refused(model, tmp_path / "file", ValueError, "another base")
    assert all_bits(lite.load(model.float(), tmp_path / "file")).keys() == {"weight", "bias", "lora_A", "lora_B"}


def test_equal_bits_of_another_dtype_are_another_base(tmp_path):
    model = nn.Linear(6, 4, bias=False, dtype=torch.float16)
    lite.save(lite.attach(model, lite.LoRAConfig()), tmp_path / "file")
    other = nn.Linear(6, 4, bias=False, dtype=torch.bfloat16)
    other.weight.data = model.weight.detach().view(torch.bfloat16)
    refused(other, tmp_path / "file", ValueError, "another base")


def test_equal_bits_of_another_shape_are_another_base(tmp_path):
    model = nn.Linear(6, 4, bias=False)
    nn.init.ones_(model.weight)
    lite.save(lite.attach(model, lite.LoRAConfig()), tmp_path / "file")
    other = nn.Linear(4, 6, bias=False)
    nn.init.ones_(other.weight)
    refused(other, tmp_path / "file", ValueError, "another base")


def test_another_model_is_refused_with_both_sides_shown(tmp_path):
    lite.save(lite.attach(net(), lite.LoRAConfig()), tmp_path / "file")
    model = nn.ModuleDict({"first": nn.Linear(6, 8), "third": nn.Linear(8, 4)})
    refused(model, tmp_path / "file", ValueError, "another model: only in the file last, only in the model third")
