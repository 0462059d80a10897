"""A folder for peft comes back as what was exported, bit for bit, whatever the options; what peft makes of it is asked in conformance."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import lite
from lite.tests.files import content, read
from lite.tests.toys import CONFIGS, all_bits, attach, bits, net, snapshot, trained

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
    "other projections": ("^.* tinylora_P holds random projections: that is TinyLoRA, another method$", lambda t: t.update({f"{FIRST}tinylora_P": t[f"{FIRST}tinylora_P"] + 1})),
    "fewer numbers": (r"tinylora_v is \(3,\), tinylora_P \(4, 2, 2\); should be \(4,\), \(4, 2, 2\)", lambda t: t.update({"base_model.tinylora_v.0": t["base_model.tinylora_v.0"][:3].clone()})),
    "fewer projections": (r"tinylora_v is \(4,\), tinylora_P \(3, 2, 2\)", lambda t: t.update({f"{FIRST}tinylora_P": t[f"{FIRST}tinylora_P"][:3].clone()})),
    "no projections": ("missing tinylora_P", lambda t: t.pop(f"{FIRST}tinylora_P")),
    "no numbers": ("missing tinylora_v", lambda t: t.pop("base_model.tinylora_v.0")),
    "neither": ("missing tinylora_P, tinylora_v", lambda t: [t.pop(name) for name in ("base_model.tinylora_v.0", f"{FIRST}tinylora_P")]),
}  # fmt: skip


@pytest.mark.parametrize(("message", "change"), SPOILED.values(), ids=SPOILED)
def test_another_lora_xs_than_tinylora_with_such_projections_is_refused(message, change, tmp_path):
    lite.export_peft(attach(net(), lite.LoRAXSConfig(r=2)), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        lite.load_peft(net(), tmp_path)


@pytest.mark.parametrize(
    ("alpha", "dtype"), [(None, torch.float32), (2.0, torch.float32), (3.0, torch.float32), (0.6, torch.float64)]
)
def test_the_scale_of_a_lora_xs_that_peft_saved_is_read_from_its_projections(alpha, dtype, tmp_path):
    model = trained(attach(net().to(dtype), lite.LoRAXSConfig(r=2, alpha=alpha)))
    lite.export_peft(model, tmp_path)
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")  # without lite's note
    restored = lite.load_peft(net().to(dtype), tmp_path)
    x = torch.ones(3, 6, dtype=dtype)
    assert bits(restored(x)) == bits(model(x))
    assert vars(restored)["_lite_attachment"].configs[0].alpha == (None if alpha in (None, 2.0) else alpha)


def test_asvd_without_the_rest_of_the_weight_is_refused(tmp_path):
    model = attach(net(), lite.ASVDConfig(r=2, residual=False))
    with pytest.raises(ValueError, match=r"asvd on first: peft cannot leave the rest of the weight away \(residual=False\)"):
        lite.export_peft(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_cast_comes_back_in_its_dtype(tmp_path):
    model = trained(attach(net(), lite.PiSSAConfig(r=2))).to(torch.bfloat16)
    lite.export_peft(model, tmp_path)
    restored = lite.load_peft(net().to(torch.bfloat16), tmp_path)
    for layer in ("first", "last"):
        for name in ("lora_A", "lora_B"):
            assert bits(getattr(restored.get_submodule(layer), name)) == bits(getattr(model.get_submodule(layer), name))


class Shared(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(6, 6)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x))


def test_a_module_under_two_names_crosses_neither_way(tmp_path):
    model = lite.attach(Shared(), lite.LoRAConfig(r=2))
    with pytest.raises(ValueError, match=r"a is one module under several names \(a, b\)"):
        lite.export_peft(model, tmp_path / "folder")
    apart = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 6)})
    lite.export_peft(lite.attach(apart, lite.LoRAConfig(r=2)), tmp_path)
    with pytest.raises(ValueError, match=r"a is one module under several names \(a, b\)"):
        lite.load_peft(Shared(), tmp_path)


@pytest.mark.parametrize("word", ["lite", "sha256", "adapter_config_sha256"])
def test_a_hidden_note_is_seen(word, tmp_path):
    key = f'"{word}"'.encode()
    lite.export_peft(trained(attach(net(), lite.PiSSAConfig(r=2))), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    content = file.read_bytes()
    assert content.count(key) == 1
    file.write_bytes(content.replace(key, key[:1] + bytes([key[1] ^ 1]) + key[2:]))
    with pytest.raises(ValueError, match="is damaged"):
        lite.load_peft(net(), tmp_path)


NONSENSE = {
    "a rank beyond all memory": {"r": 2**62},
    "a rank beyond all integers": {"r": 10**30},
    "a pattern that is none": {"rank_pattern": {"(": 3}},
    "patterns in a list": {"rank_pattern": [1]},
    "patterns in a text": {"alpha_pattern": "first"},
    "a text for a mapping": {"init_lora_weights": "eva", "eva_config": "rho"},
    "a rank that is none": {"r": "4"},
}


def by_peft(folder, **fields):
    """Without lite's note, and with other fields."""
    lite.export_peft(attach(net(), lite.LoRAConfig(r=2)), folder)
    save_file(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.safetensors")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("fields", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_in_a_config_is_a_clear_error(fields, tmp_path):
    by_peft(tmp_path, **fields)
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="^" + str(tmp_path)):
        lite.load_peft(model, tmp_path)
    assert snapshot(model) == before


@pytest.mark.parametrize("config", [lite.PiSSAConfig(r=2), lite.LoRAXSConfig(r=2)], ids=["pissa", "lora_xs"])
def test_every_tensor_of_an_exported_folder_is_needed_in_its_shape(config, tmp_path):
    lite.export_peft(attach(net(), config), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    metadata, tensors = read(file)
    for name in tensors:
        for change in ({}, {name: tensors[name].reshape(-1)[0].clone()}):
            save_file({key: value for key, value in tensors.items() if key != name} | change, file, metadata)
            with pytest.raises(ValueError, match="^" + str(tmp_path)):
                lite.load_peft(net(), tmp_path)


class Nest(torch.nn.Module):
    """Names that end in others, and one that a dot in a pattern would match."""

    def __init__(self):
        super().__init__()
        self.fc, self.a, self.axfc = (
            torch.nn.Linear(6, 6),
            torch.nn.ModuleDict({"fc": torch.nn.Linear(6, 6)}),
            torch.nn.Linear(6, 6),
        )

    def forward(self, x):
        return self.axfc(self.a["fc"](self.fc(x)))


def test_values_of_single_layers_are_told_of_these_alone(tmp_path):
    configs = [
        lite.LoRAConfig(r=2, alpha=9, target_names=["^fc$", "^axfc$"]),
        lite.LoRAConfig(r=3, alpha=2, target_names=[r"\.fc$"]),
    ]
    lite.export_peft(lite.attach(Nest(), configs), tmp_path / "new" / "folder")
    fields = json.loads((tmp_path / "new" / "folder" / "adapter_config.json").read_text())
    assert (fields["r"], fields["rank_pattern"], fields["alpha_pattern"]) == (2, {"^a\\.fc": 3}, {"^a\\.fc": 2})
    assert fields["inference_mode"] is True
    assert fields["target_modules"] == ["axfc", "fc"]


def test_both_sides_of_ia3_are_told_in_one_form(tmp_path):
    configs = [lite.IA3Config(target_names=["^fc$"]), lite.IA3FFConfig(target_names=[r"\.fc$"])]
    lite.export_peft(lite.attach(Nest(), configs), tmp_path)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["target_modules"], fields["feedforward_modules"]) == (r"fc|a\.fc", r"a\.fc")


def test_the_longest_name_owns_a_tensor(tmp_path):
    model = Nest()
    model.fc.add_module("fc", torch.nn.Linear(6, 6))  # a layer around another: the inner one is adapted
    lite.export_peft(lite.attach(copy.deepcopy(model), lite.LoRAConfig(r=2)), tmp_path)
    assert hasattr(lite.load_peft(model, tmp_path).fc.fc, "lora_A")


def test_a_folder_of_pefts_own_residual_does_not_go_onto_another(tmp_path):
    by_peft(tmp_path, init_lora_weights="pissa")
    model = attach(net(), lite.PiSSAConfig(r=2, target_names=[r"(^|\.)first$", r"(^|\.)last$"], exclude_names=()))
    with pytest.raises(ValueError, match=r"this model's is taken out already; call lite\.detach first"):
        lite.load_peft(model, tmp_path)


def test_tensors_beside_the_layers_are_all_taken(tmp_path):
    lite.export_peft(attach(net(), lite.LoRAXSConfig(r=2)), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"base_model.tinylora_v.7": torch.zeros(4)}, file)
    with pytest.raises(ValueError, match=r"nothing says what to do with the tensors of tinylora_v\.7"):
        lite.load_peft(net(), tmp_path)


def test_an_output_layer_is_adapted_if_peft_adapted_it(tmp_path):
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(6, 6)})
    lite.export_peft(lite.attach(model, lite.LoRAConfig(r=2, exclude_names=())), tmp_path)
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    assert hasattr(lite.load_peft(torch.nn.ModuleDict({"lm_head": torch.nn.Linear(6, 6)}), tmp_path)["lm_head"], "lora_A")


def test_names_that_only_an_expression_tells_come_back(tmp_path):
    lite.export_peft(trained(lite.attach(Nest(), lite.LoRAConfig(r=2, target_names=["^fc$"]))), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == "fc"
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")  # without lite's note
    restored = lite.load_peft(Nest(), tmp_path)
    assert [name for name, _ in restored.named_parameters() if "lora_" in name] == ["fc.lora_A", "fc.lora_B"]
