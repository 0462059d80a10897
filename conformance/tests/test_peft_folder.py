"""Folders of peft's: what lite reads of them, what it refuses, and what peft makes of lite's."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import lite
from conformance.hosts import state_of
from lite.peft_export import ends, exact
from lite.peft_form import CONFIG, TENSORS
from refs.models import MODELS
from refs.numbers import normal

LLAMA = MODELS["llama"]
NAMES = ["q_proj", "v_proj", "down_proj"]


def wrapped(config):
    """peft on a tiny Llama, moved away from its start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(LLAMA.fresh(torch.float64), config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(normal("moved", name, shape=tuple(parameter.shape)).to(parameter.dtype) / 8)
    return model.eval()


def saved(config, folder):
    model = wrapped(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        return LLAMA.outputs(model, LLAMA.batch())["logits"]


READ = {
    "ranks of layers": peft.LoraConfig(r=4, lora_alpha=6, target_modules=NAMES, rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 7}, alpha_pattern={"v_proj": 11}),
    "a pattern of two": peft.LoraConfig(r=4, lora_alpha=6, target_modules=NAMES, rank_pattern={"^model.layers.0.self_attn.q_proj": 3, "q_proj": 2}),
    "rslora": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=NAMES),
    "a bias": peft.LoraConfig(r=4, lora_bias=True, target_modules=NAMES),
    "another start": peft.LoraConfig(r=4, init_lora_weights="orthogonal", target_modules=NAMES),
    "no start": peft.LoraConfig(r=4, init_lora_weights=False, target_modules=NAMES),
    "some layers": peft.LoraConfig(r=4, target_modules=NAMES, layers_to_transform=[1]),
    "a regular expression": peft.LoraConfig(r=4, target_modules=r".*\.0\..*(q|k)_proj"),
    "all but some": peft.LoraConfig(r=4, target_modules="all-linear", exclude_modules=["down_proj"]),
    "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=NAMES),
    "both sides of ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "strengths of layers": peft.DeloraConfig(r=4, target_modules=NAMES, rank_pattern={"q_proj": 2}, lambda_pattern={"v_proj": 3}),
    "hra": peft.HRAConfig(r=4, target_modules=NAMES),
    "road": peft.RoadConfig(variant="road_4", group_size=8, target_modules=NAMES),
}  # fmt: skip


@pytest.mark.parametrize("config", READ.values(), ids=READ)
def test_what_peft_saved_is_the_same_function(config, tmp_path):
    theirs = saved(config, tmp_path)
    ours = lite.load_peft(LLAMA.fresh(torch.float64), tmp_path)
    assert (logits(ours) - logits(theirs)).norm() <= 1e-12 * logits(theirs).norm()
    assert (logits(ours) - logits(LLAMA.fresh(torch.float64))).norm() > 1e-2 * logits(ours).norm()
    trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


@pytest.mark.parametrize("config", READ.values(), ids=READ)
def test_what_was_read_is_saved_and_loaded_as_ever(config, tmp_path):
    saved(config, tmp_path)
    ours = lite.load_peft(LLAMA.fresh(torch.float64), tmp_path)
    lite.save(ours, tmp_path / "file")
    again = lite.load(LLAMA.fresh(torch.float64), tmp_path / "file")
    assert all(value.equal(again.state_dict()[name]) for name, value in ours.state_dict().items())
    assert logits(again).equal(logits(ours))


UNREAD = {
    "another method": (peft.LoHaConfig(r=4, target_modules=NAMES), "peft_type 'LOHA' is none of .*LORA"),
    "whole modules": (peft.LoraConfig(target_modules=NAMES, modules_to_save=["lm_head"]), r"has nothing for modules_to_save=\['lm_head'\]"),
    "trained biases": (peft.LoraConfig(target_modules=NAMES, bias="all"), "has nothing for bias='all'"),
    "trained tokens": (peft.LoraConfig(target_modules=NAMES, trainable_token_indices=[1, 2]), "has nothing for trainable_token_indices"),
    "embeddings": (peft.LoraConfig(target_modules=["q_proj", "embed_tokens"]), "embed_tokens.* belong to no linear layer"),
    "a decomposition of another start": (peft.TinyLoraConfig(r=2, u=4, target_modules=NAMES), "holds random projections: that is TinyLoRA"),
    "tied numbers": (peft.TinyLoraConfig(r=2, u=4, weight_tying=1.0, target_modules=NAMES), "weight_tying=1.0 cannot be read"),
    "Gram-Schmidt": (peft.HRAConfig(r=4, apply_GS=True, target_modules=NAMES), "apply_gs cannot be True"),
}  # fmt: skip


def refused(folder, message, error=ValueError):
    model = LLAMA.fresh(torch.float64)
    before = state_of(model)
    with pytest.raises(error, match=message) as caught:
        lite.load_peft(model, folder)
    assert str(folder) in str(caught.value)
    after = state_of(model)
    assert all(
        torch.equal(before[key], after[key]) if isinstance(before[key], torch.Tensor) else before[key] == after[key]
        for key in before
    )


@pytest.mark.parametrize(("config", "message"), UNREAD.values(), ids=UNREAD)
def test_what_lite_does_not_have_is_refused(config, message, tmp_path):
    saved(config, tmp_path)
    refused(tmp_path, message)


def rewritten(folder, **fields):
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_a_start_that_is_not_in_the_folder_is_refused(start, tmp_path):
    saved(peft.LoraConfig(r=4, target_modules=NAMES), tmp_path)
    rewritten(tmp_path, init_lora_weights=start)
    refused(tmp_path, f"init_lora_weights='{start}'.* cannot be read")


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_beside_dora_is_refused(start, tmp_path):
    saved(peft.LoraConfig(r=4, use_dora=True, target_modules=NAMES), tmp_path)
    rewritten(tmp_path, init_lora_weights=start)
    refused(tmp_path, "use_dora=True cannot be read")


def without(name):
    return lambda tensors: tensors.pop(next(key for key in sorted(tensors) if name in key))


def turned(name):
    return lambda tensors: tensors.update({key: value.T.contiguous() for key, value in tensors.items() if name in key})


def more(tensors):
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight"] = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("lora_B"), "missing lora_B.weight, extra none"),
        (turned("lora_A"), r"lora_A.weight is \(32, 4\), should be \(4, 32\)"),
        (more, "missing none, extra lora_C.weight"),
        (dict.clear, "no tensor belongs to a layer of this model"),
    ],
    ids=["missing", "transposed", "extra", "none"],
)
def test_tensors_that_do_not_fit_are_refused(change, message, tmp_path):
    saved(peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    change(tensors)
    save_file(tensors, tmp_path / TENSORS)
    refused(tmp_path, message)


def test_pickles_are_not_opened(tmp_path):
    saved(peft.LoraConfig(r=4, target_modules=NAMES), tmp_path)
    (tmp_path / TENSORS).rename(tmp_path / "adapter_model.bin")
    refused(tmp_path, "a pickle, which may run code")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is no JSON"), ("[" * 100_000, "is no JSON"), ("[]", "should be a mapping with a peft_type"), ('{"r": 8}', "should be a mapping with a peft_type")],
    ids=["empty", "nested", "a list", "no type"],
)  # fmt: skip
def test_a_damaged_config_is_refused(text, message, tmp_path):
    saved(peft.LoraConfig(r=4, target_modules=NAMES), tmp_path)
    (tmp_path / CONFIG).write_text(text)
    refused(tmp_path, message)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_missing_file_is_named(name, tmp_path):
    saved(peft.LoraConfig(r=4, target_modules=NAMES), tmp_path)
    (tmp_path / name).unlink()
    refused(tmp_path, f"there is no file .*{name}", FileNotFoundError)


def exported(folder, config=None):
    model = lite.attach(LLAMA.fresh(torch.float64), config or lite.LoRAConfig(r=4, target_names=["q_proj"]))
    lite.export_peft(model, folder)
    return model


def test_a_config_that_was_changed_after_its_export_is_refused(tmp_path):
    exported(tmp_path)
    rewritten(tmp_path, lora_alpha=99)
    refused(tmp_path, "is not the one that was exported with")


def test_a_flipped_bit_of_an_exported_number_is_refused(tmp_path):
    exported(tmp_path)
    content = bytearray((tmp_path / TENSORS).read_bytes())
    content[-1] ^= 1
    (tmp_path / TENSORS).write_bytes(content)
    refused(tmp_path, "is damaged: its sha256")


def test_another_base_is_refused(tmp_path):
    exported(tmp_path)
    other = LLAMA.fresh(torch.float64)
    with torch.no_grad():
        other.get_submodule("model.layers.1.self_attn.q_proj").weight[0, 0] += 1
    with pytest.raises(ValueError, match="another base"):
        lite.load_peft(other, tmp_path)


def test_values_are_replaced_where_the_same_is_attached(tmp_path):
    config = lite.PiSSAConfig(r=4, target_names=["q_proj"])
    exported(tmp_path, config)
    model = lite.attach(LLAMA.fresh(torch.float64), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2)
    lite.load_peft(model, tmp_path)
    assert logits(model).equal(logits(lite.load_peft(LLAMA.fresh(torch.float64), tmp_path)))
    lite.detach(model)
    assert logits(model).equal(logits(LLAMA.fresh(torch.float64)))


NOT_EXPORTED = {
    "no method of peft's": (lite.AntiPaSTOConfig(r=4, target_names=["q_proj"]), "peft has no such method"),
    "two methods": ([lite.LoRAConfig(target_names=["q_proj"]), lite.HRAConfig(target_names=["k_proj"])], "holds one method, this model has HRA, LORA"),
    "two options": ([lite.LoRAConfig(target_names=["q_proj"], dropout=0.1), lite.LoRAConfig(target_names=["k_proj"])], "peft has one lora_dropout for all layers"),
    "lora and dora": ([lite.LoRAConfig(target_names=["q_proj"]), lite.DoRAConfig(target_names=["k_proj"])], "peft has one use_dora for all layers"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "message"), NOT_EXPORTED.values(), ids=NOT_EXPORTED)
def test_what_peft_does_not_have_is_not_written(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        exported(tmp_path / "folder", config)
    assert not (tmp_path / "folder").exists()


def test_nothing_attached_is_not_written(tmp_path):
    with pytest.raises(RuntimeError, match="nothing to export"):
        lite.export_peft(LLAMA.fresh(torch.float64), tmp_path / "folder")


def test_two_ranks_cross_into_one_folder(tmp_path):
    configs = [
        lite.LoRAConfig(r=2, alpha=3, target_names=["q_proj"]),
        lite.LoRAConfig(r=5, alpha=6, target_names=["layers.1.mlp.down_proj"]),
    ]
    ours = exported(tmp_path, configs)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                parameter.add_(normal("moved", name, shape=tuple(parameter.shape)))
    lite.export_peft(ours, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # transformers' of peft's own call
        theirs = peft.PeftModel.from_pretrained(LLAMA.fresh(torch.float64), tmp_path, autocast_adapter_dtype=False)
    assert (logits(ours) - logits(theirs)).norm() <= 1e-12 * logits(theirs).norm()
    assert logits(lite.load_peft(LLAMA.fresh(torch.float64), tmp_path)).equal(logits(ours))


@pytest.mark.parametrize(
    ("names", "should"),
    [
        (["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"], ["up_proj"]),
        (["model.layers.0.mlp.up_proj"], ["model.layers.0.mlp.up_proj"]),
        (["lm_head"], ["lm_head"]),
    ],
)
def test_targets_are_told_in_few_words(names, should):
    assert exact(LLAMA.fresh(torch.float32), names, ends) == should


def test_a_name_that_ends_another_is_told_by_a_regular_expression():
    model = torch.nn.ModuleDict({"b": torch.nn.Linear(2, 2), "a": torch.nn.ModuleDict({"b": torch.nn.Linear(2, 2)})})
    assert exact(model, ["b"], ends) == "b"  # as a regular expression, which peft matches in full
    assert exact(model, ["a.b"], ends) == ["a.b"]
