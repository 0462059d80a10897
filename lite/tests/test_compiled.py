"""A compiled model: attach before it is compiled; everything else takes either."""

import pytest
import torch

import lite
from lite.tests.toys import CONFIGS, adapted, all_bits, net, snapshot


def compiled(model):
    return torch.compile(model, backend="eager")


def test_attaching_to_a_compiled_model_is_refused():
    wrapped = compiled(model := net())
    before = snapshot(model)
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


ACTS = {
    "detach": lite.detach,
    "merge": lite.merge,
    "save": lambda model: lite.save(model, "file"),
    "export_peft": lambda model: lite.export_peft(model, "folder"),
    "attach": lambda model: lite.attach(model, lite.LoRAConfig()),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_what_is_no_model_is_told(act):
    with pytest.raises(TypeError, match=r"should be an nn\.Module, got str"):
        act("a model")
