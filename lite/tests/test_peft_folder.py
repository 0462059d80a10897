"""A folder for peft comes back as what was exported, bit for bit, whatever the options; what peft makes of it is asked in conformance."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import lite
from lite.tests.files import content
from lite.tests.toys import CONFIGS, all_bits, attach, bits, net, trained

CROSSING = [name for name, make in CONFIGS.items() if make.variant.peft_form]
OPTIONS = {
    "plain": {},
    "a bias": {"lora_bias": True},
    "another scale": {"rslora": True, "alpha": 3, "r": 3},
    "dropout": {"dropout": 0.25},
    "half precision": {"dtype": torch.bfloat16},
}


def cases():
    for name in CROSSING:
        for what, options in OPTIONS.items():
            if options.keys() <= set(CONFIGS[name].options):
                yield pytest.param(
                    CONFIGS[name](r=options.get("r", 2), **{k: v for k, v in options.items() if k != "r"}), id=f"{what}-{name}"
                )


@pytest.mark.parametrize("config", list(cases()))
def test_what_was_exported_comes_back(config, tmp_path):
    model = trained(attach(net(), config))
    lite.export_peft(model, tmp_path)
    restored = lite.load_peft(net(), tmp_path)
    assert all_bits(restored) == all_bits(model)
    lite.export_peft(restored, tmp_path / "again")
    assert (tmp_path / "adapter_config.json").read_bytes() == (tmp_path / "again" / "adapter_config.json").read_bytes()
    assert content(tmp_path / "adapter_model.safetensors") == content(tmp_path / "again" / "adapter_model.safetensors")


@pytest.mark.parametrize("config", list(cases()))
def test_it_goes_onto_what_is_attached_and_off_again(config, tmp_path):
    model = trained(attach(net(), config))
    lite.export_peft(model, tmp_path)
    again = lite.load_peft(trained(attach(net(), config), seed=5), tmp_path)
    assert all_bits(again) == all_bits(model)
    assert all_bits(lite.detach(again)) == all_bits(net())


@pytest.mark.parametrize("name", [name for name in CROSSING if CONFIGS[name].variant.residual])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
def test_a_part_of_the_weight_is_written_as_what_was_added_to_the_whole(name, bias, tmp_path):
    model = trained(attach(net(), CONFIGS[name](r=2, alpha=3, rslora=True, lora_bias=bias)))
    lite.export_peft(model, tmp_path)
    fields, tensors = json.loads((tmp_path / "adapter_config.json").read_text()), load_file(tmp_path / "adapter_model.safetensors")
    assert (fields["r"], fields["use_rslora"], fields["peft_type"]) == (4, False, "LORA")
    s = fields["lora_alpha"] / fields["r"]
    for layer in ("first", "last"):
        A, B = (tensors[f"base_model.model.{layer}.lora_{ab}.weight"].double() for ab in "AB")
        live, plain = model.get_submodule(layer), net().get_submodule(layer)
        adapted = live.weight.double() + s * live.lora_B.double() @ live.lora_A.double()
        torch.testing.assert_close(plain.weight.double() + s * B @ A, adapted, rtol=1e-5, atol=1e-6)
        if bias:
            assert bits(tensors[f"base_model.model.{layer}.lora_B.bias"]) == bits(live.lora_b)
        else:
            assert f"base_model.model.{layer}.lora_B.bias" not in tensors


def test_lora_xs_is_written_with_projections_that_pick_one_number_each(tmp_path):
    model = trained(attach(net(), lite.LoRAXSConfig(r=2, alpha=5)))
    lite.export_peft(model, tmp_path)
    fields, tensors = json.loads((tmp_path / "adapter_config.json").read_text()), load_file(tmp_path / "adapter_model.safetensors")
    assert (fields["u"], fields["weight_tying"], fields["save_projection"]) == (4, 0.0, True)
    for number, layer in enumerate(("first", "last")):
        v, P = tensors[f"base_model.tinylora_v.{number}"], tensors[f"base_model.model.{layer}.tinylora_P"]
        torch.testing.assert_close(torch.einsum("i,ijk->jk", v, P), 2.5 * model.get_submodule(layer).lora_R.detach())


FIRST = "base_model.model.first."
SPOILED = {
    "other projections": ("holds random projections", lambda t: t.update({f"{FIRST}tinylora_P": t[f"{FIRST}tinylora_P"] + 1})),
    "fewer numbers": (r"tinylora_v is \(3,\), tinylora_P \(4, 2, 2\); should be \(4,\), \(4, 2, 2\)", lambda t: t.update({"base_model.tinylora_v.0": t["base_model.tinylora_v.0"][:3].clone()})),
    "fewer projections": (r"tinylora_v is \(4,\), tinylora_P \(3, 2, 2\)", lambda t: t.update({f"{FIRST}tinylora_P": t[f"{FIRST}tinylora_P"][:3].clone()})),
    "no projections": ("missing tinylora_P", lambda t: t.pop(f"{FIRST}tinylora_P")),
    "no numbers": ("missing tinylora_v", lambda t: t.pop("base_model.tinylora_v.0")),
}  # fmt: skip


@pytest.mark.parametrize(("message", "change"), SPOILED.values(), ids=SPOILED)
def test_another_lora_xs_than_tinylora_with_such_projections_is_refused(message, change, tmp_path):
    lite.export_peft(attach(net(), lite.LoRAXSConfig(r=2)), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        lite.load_peft(net(), tmp_path)


@pytest.mark.parametrize("alpha", [None, 2.0, 3.0])
def test_the_scale_of_a_lora_xs_that_peft_saved_is_read_from_its_projections(alpha, tmp_path):
    model = trained(attach(net(), lite.LoRAXSConfig(r=2, alpha=alpha)))
    lite.export_peft(model, tmp_path)
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")  # without lite's note
    restored = lite.load_peft(net(), tmp_path)
    x = torch.ones(3, 6)
    assert bits(restored(x)) == bits(model(x))
    assert vars(restored)["_lite_attachment"].configs[0].alpha == (None if alpha in (None, 2.0) else alpha)


def test_asvd_without_the_rest_of_the_weight_is_refused(tmp_path):
    model = attach(net(), lite.ASVDConfig(r=2, residual=False))
    with pytest.raises(ValueError, match=r"asvd on first: peft cannot leave the rest of the weight away \(residual=False\)"):
        lite.export_peft(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
