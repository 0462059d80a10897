"""A compiled model: attach before it is compiled; everything else takes either."""

import pytest
import torch

import lite
from lite.tests.toys import CONFIGS, adapted, all_bits, net, snapshot


def compiled(model):
    return torch.compile(model, backend="eager")


def test_attaching_to_a_compiled_model_is_refused():
    model = net()
    before, wrapped = snapshot(model), compiled(model)
    with pytest.raises(ValueError, match=r"the model is compiled, .* attach to the model that was compiled"):
        lite.attach(wrapped, lite.LoRAConfig(r=2))
    assert snapshot(model) == before


def test_what_was_compiled_is_saved_detached_merged_and_exported(tmp_path):
    model = adapted(CONFIGS["lora"](r=2))
    held = all_bits(model)
    lite.save(compiled(model), tmp_path / "file")
    lite.export_peft(compiled(model), tmp_path / "folder")
    lite.detach(compiled(model))
    assert all_bits(model) == all_bits(net())
    assert all_bits(lite.load(net(), tmp_path / "file")) == all_bits(lite.load_peft(net(), tmp_path / "folder")) == held


@pytest.mark.parametrize(
    "act",
    [lite.detach, lite.merge, lambda x: lite.save(x, "f"), lambda x: lite.load_peft(x, "f"), lambda x: lite.export_peft(x, "f")],
)
def test_what_is_no_model_is_told(act):
    with pytest.raises((TypeError, FileNotFoundError), match=r"should be an nn\.Module, got str|there is no file"):
        act("a model")
