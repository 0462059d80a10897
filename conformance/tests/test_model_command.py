"""`python -m conformance model`: real checkpoints on disk, what is wrong with them, and adapters saved for them."""

import json
import shutil
import warnings

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaMLP

import lite
from conformance.__main__ import main
from conformance.known_bugs import BUGS, planted
from conformance.known_bugs.bug import Bug
from conformance.model.checkpoint import load
from conformance.model.examine import examined
from conformance.model.names import abbreviated, ranges
from conformance.model.words import MOST, words
from lite.stored import START
from refs import minilm

QUICK = ("--variant", "ia3")
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for tied in (True, False):
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=97,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
        )
        made[tied] = tmp_path_factory.mktemp("tied" if tied else "untied")
        LlamaForCausalLM(config).save_pretrained(made[tied])
    return made


@pytest.fixture
def llama(folders, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(folders[False], tmp_path / "llama")


def said(capsys, *arguments):
    status = main(["model", *map(str, arguments)])
    output = capsys.readouterr()
    return status, " ".join(output.out.split()), output.err


def measured(tmp_path, *arguments):
    status = main(["model", *map(str, arguments), "--json", str(tmp_path / "found.json")])
    return status, json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))


def rewrite(folder, change, name=WEIGHTS):
    """The tensors of a file, changed."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, {"format": "pt"})


def configure(folder, name="config.json", **changes):
    config = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.skipif(minilm.missing() is not None, reason="no real weights here")
def test_minilm_on_real_text(tmp_path, capsys):
    block = r"encoder\.layer\.3\.(attention\.self\.value|output\.dense)$|pooler"
    status, found = measured(tmp_path, minilm.folder(), "--variant", "lora", "pissa", "--targets", block)
    assert status == 0
    assert found["input"] == f"{MOST} tokens of the text built in"
    assert found["targets"]["pissa"]["layers"] == [
        "encoder.layer.3.attention.self.value",
        "encoder.layer.3.output.dense",
        "pooler.dense",
    ]
    whole = {(m["variant"], m["what"]): m["verdict"] for m in found["measurements"] if m["layer"] == "the model's output"}
    assert whole == {
        ("lora", "last_hidden_state"): "identical",
        ("lora", "pooler_output"): "identical",
        ("pissa", "last_hidden_state"): "equivalent",
        ("pissa", "pooler_output"): "equivalent",
    }
    beside = {(m["check"], m["what"], m["verdict"]) for m in found["measurements"] if m["reference"] == "peft"}
    assert {(check, what) for check, what, _ in beside} == {
        ("forward", "output"),
        ("gradients", "grad.x"),
        ("gradients", "grad.lora_A"),
        ("gradients", "grad.lora_B"),
    }
    assert {verdict for *_, verdict in beside} <= {"identical", "equivalent"}
    assert "encoder.layer.3.attention.self.value" in capsys.readouterr().out


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_llama_saved_to_disk(folders, capsys, tied):
    status, out, _ = said(capsys, folders[tied], "--variant", *("lora", "pissa") if tied else ("eva", "lora_xs"))
    assert status == 0
    assert f"{MOST} tokens of random token ids: {folders[tied]} has no tokenizer" in out
    assert "model.layers.{0–1}.self_attn.q_proj" in out
    assert "lm_head" not in out
    assert "what is wrong" not in out


def test_a_row_of_zeros_in_a_tied_embedding(tmp_path):
    config = BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=97, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    status, found = measured(tmp_path, tmp_path, "--variant", "pissa", "olora", "--targets", "decoder")
    assert status == 0
    assert not load(tmp_path).model.cls.predictions.decoder.weight[config.pad_token_id].any()
    assert {m["verdict"] for m in found["measurements"] if m["check"] == "identity"} == {"equivalent"}


def test_what_a_method_does_not_fit(tmp_path):
    config = BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=97, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    status, found = measured(
        tmp_path, tmp_path, "--variant", "road", "antipasto_ablate", "delora", "--targets", "classifier|pooler"
    )
    untested = {(m["variant"], m["layer"]): m["reason"] for m in found["measurements"] if m["verdict"] == "untested"}
    assert status == 0
    assert untested["road", "classifier"] == "no such layer: a weight (4, 32) would do, this is (1, 32)"
    assert untested.keys() == {("road", "classifier"), ("antipasto_ablate", "classifier"), ("delora", "classifier")}
    assert found["targets"]["antipasto_ablate"]["refusal"].endswith("r = 16, but a (1, 32) weight has only 1 components")


@pytest.mark.skipif(minilm.missing() is not None, reason="no real weights here")
def test_what_one_token_is_too_few_for(tmp_path, capsys):
    status, found = measured(tmp_path, minilm.folder(), "--variant", "eva", "--targets", r"layer\.5\.output|pooler")
    untested = {m["layer"]: m["reason"] for m in found["measurements"] if m["verdict"] == "untested"}
    assert status == 0
    assert untested == {"pooler.dense": "1 of the tokens reach this layer, a start from data needs 17"}
    assert "dead parameters, forward, untested 1 of the tokens reach this layer" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("content", "told"), [(" \n", "is empty"), ("Seals.", "has no tokenizer")])
def test_a_text_that_cannot_be_used(folders, tmp_path, capsys, content, told):
    (tmp_path / "text").write_text(content)
    status, out, err = said(capsys, folders[True], *QUICK, "--text", tmp_path / "text")
    assert (status, out) == (2, "")
    assert f"--text {tmp_path / 'text'}" in err
    assert told in err


def test_the_same_text_twice(folders, capsys):
    first, second = (said(capsys, folders[True], "--variant", "pissa")[:2] for _ in range(2))
    assert first == second


def test_a_head_by_name_and_a_file_of_text(folders, tmp_path):
    status, found = measured(tmp_path, folders[True], *QUICK, "--targets", "lm_head")
    assert (status, found["targets"]["ia3"]["layers"]) == (0, ["lm_head"])


def test_a_model_is_left_as_it_was_and_has_one_adapter_at_a_time(folders):
    checkpoint = load(folders[False])
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    trained = {name: p.requires_grad for name, p in checkpoint.model.named_parameters()}
    at_each_step = []

    def watch(what, done, total):
        at_each_step.append(checkpoint.model.state_dict().keys() == before.keys())

    examined(checkpoint, words(checkpoint, None), ["pissa", "dora"], ["layers.0.mlp"], watch)
    assert len(at_each_step) == 3 * 2 + 2 + 1
    assert all(at_each_step)
    assert all(value.equal(before[name]) for name, value in checkpoint.model.state_dict().items())
    assert {name: p.requires_grad for name, p in checkpoint.model.named_parameters()} == trained
    assert not any(module._forward_hooks for module in checkpoint.model.modules())


HALF_LEFT = Bug(
    id="residual-keeps-a-part",
    variant="pissa",
    description="less is taken out of the weight than is put beside it",
    effect="0.31 of the output, far below any absolute threshold where weights are small",
    source="planted",
    hidden_by="atol = 1e-3",
    where="lite.decomposition:without",
    old="W - s",
    new="W - 0.6 * s",
    red=frozenset(),
    message="",
)


def shrink(tensors):
    for name in tensors:
        if "_proj" in name:
            tensors[name] *= 2.0**-8


def test_a_broken_identity_of_a_third_is_seen_where_absolute_thresholds_pass(llama, tmp_path, capsys):
    rewrite(llama, shrink)
    assert main(["model", str(llama), "--variant", "pissa"]) == 0
    with planted(HALF_LEFT):
        model = AutoModelForCausalLM.from_pretrained(llama)
        ids = torch.arange(20)[None]
        plain = model(ids).logits
        adapted = lite.attach(model, lite.PiSSAConfig(r=8, alpha=12))(ids).logits
        torch.testing.assert_close(adapted, plain, atol=1e-3, rtol=0)  # what passes in many a test
        status, found = measured(tmp_path, llama, "--variant", "pissa")
    at_start = [m for m in found["measurements"] if m["check"] == "identity"]
    layers = [m["relative"] for m in at_start if m["layer"] != "the model's output"]
    assert status == 1
    assert {m["verdict"] for m in at_start if m["layer"] != "the model's output"} == {"fails"}
    assert min(layers) < 0.31 < max(layers)
    worst = max(at_start, key=lambda m: m["relative"])["layer"]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["pissa", "fails"])
    assert row.split()[3] == worst


def test_a_broken_identity_of_the_whole_output(folders, tmp_path):
    with planted(HALF_LEFT):
        _, found = measured(tmp_path, folders[False], "--variant", "pissa", "--targets", "layers.1")
    assert [m["verdict"] for m in found["measurements"] if m["layer"] == "the model's output"] == ["fails"]


def test_a_bug_of_the_method_differs_from_peft(folders, tmp_path):
    with planted(next(bug for bug in BUGS if bug.id == "delora-sign")):
        status, found = measured(tmp_path, folders[False], "--variant", "delora", "--targets", "layers.0.mlp.up_proj")
    red = {(m["check"], m["reference"]) for m in found["measurements"] if m["verdict"] == "fails"}
    assert status == 1
    assert ("forward", "peft") in red


def without_up(self, x):
    return self.down_proj(self.act_fn(self.gate_proj(x)))


def up_times_zero(self, x):
    return self.down_proj(self.act_fn(self.gate_proj(x))) + 0 * self.down_proj(self.up_proj(x))


def up_detached(self, x):
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).detach())


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (without_up, "the model never calls this layer, so nothing of its adapter learns"),
        (up_times_zero, "no gradient for lora_B"),
        (up_detached, "no gradient for lora_B; the model's output does not depend on this layer"),
    ],
)
def test_dead_parameters(folders, tmp_path, capsys, monkeypatch, forward, told):
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    status, found = measured(tmp_path, folders[False], "--variant", "lora", "--targets", r"layers\.1\.mlp")
    red = {m["layer"]: m["got"] for m in found["measurements"] if m["verdict"] == "fails"}
    assert status == 1
    assert red == {"model.layers.1.mlp.up_proj": told}  # B = 0 leaves A without gradient everywhere: that is the method
    assert "lora fails 1 of 3 model.layers.1.mlp.up_proj" in " ".join(capsys.readouterr().out.split())


def test_no_targets(folders, capsys):
    status, out, _ = said(capsys, folders[False], *QUICK, "--targets", "nowhere")
    assert status == 1
    assert "none: name some with --targets REGEX" in out
    assert "ia3: matches no layer: target_names=('nowhere',)" in out


def test_a_pattern_that_cannot_be_read(folders, capsys):
    status, out, err = said(capsys, folders[False], *QUICK, "--targets", "up_proj", "(")
    assert (status, out) == (2, "")
    assert "--targets '(' is no regular expression: missing )" in err


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def only_config(folder):
    (folder / WEIGHTS).unlink()


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    only_config(folder)


def with_its_own_code(folder):
    configure(folder, model_type="mine", architectures=["Mine"], auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Mine"})
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def lacks(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def misshapen(folder):
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(5, 32)}))


def damaged(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:999])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "there is no folder"),
        (empty, "has no config.json"),
        (only_config, "has a config.json and no weights"),
        (pickled, "pytorch_model.bin, a format that can run code"),
        (with_its_own_code, "names no model that transformers"),
        (lambda folder: configure(folder, model_type="lamma"), "names no model that transformers"),
        (lambda folder: configure(folder, architectures=["LamaForCausalLM"]), "has no architecture 'LamaForCausalLM'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json names no model"),
        (
            lambda folder: configure(folder, model_type="siglip_text_model", architectures=None),
            "names no architecture, and transformers",
        ),
        (lacks, "the weights lack model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM has"),
        (
            misshapen,
            "weights of another shape than config.json says: lm_head.weight, (5, 32) in the file and (97, 32) in the model",
        ),
        (damaged, "cannot be loaded"),
        (lambda folder: rewrite(folder, lambda t: t["model.norm.weight"].fill_(torch.nan)), "output is not finite"),
    ],
)
def test_a_folder_that_cannot_be_used(llama, capsys, spoil, told):
    spoil(llama)
    status, _, err = said(capsys, llama, *QUICK)
    assert status == 2
    assert told in err
    assert not (llama / "ran").exists()


def test_a_tensor_without_a_place_is_told(llama, capsys):
    rewrite(llama, lambda tensors: tensors.update({"stray": torch.ones(3)}))
    status, out, _ = said(capsys, llama, *QUICK, "--targets", "layers.0.mlp.up_proj")
    assert status == 0
    assert "the model has no place for stray" in out


def moved(model, size=0.1):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or "lora_" in name:
            parameter.data += size * torch.randn_like(parameter)
    return model


def lite_adapter(folder, path, config, size):
    torch.manual_seed(0)
    model = moved(lite.attach(AutoModelForCausalLM.from_pretrained(folder), config), size)
    lite.save(model, path)
    return path


ONE = ("--targets", "layers.0.mlp.up_proj")


def adapter_rows(tmp_path, folder, adapter):
    status, found = measured(tmp_path, folder, *QUICK, *ONE, "--adapter", adapter)
    return status, {m["what"]: (m["verdict"], m["got"]) for m in found["adapter"]}


@pytest.mark.parametrize("config", [lite.LoRAConfig(), lite.PiSSAConfig()], ids=["lora", "pissa"])
def test_an_adapter_that_moves_nothing(folders, tmp_path, config):
    untrained = lite_adapter(folders[True], tmp_path / "none.safetensors", config, 0.0)
    status, rows = adapter_rows(tmp_path, folders[True], untrained)
    assert status == 1
    assert rows["moves the output"][0] == "fails"
    assert rows["moves the output"][1].startswith("loaded, but does nothing")
    assert [what for what, (verdict, _) in rows.items() if verdict == "fails"] == ["moves the output"]
    trained = lite_adapter(folders[True], tmp_path / "some.safetensors", config, 0.1)
    assert adapter_rows(tmp_path, folders[True], trained)[0] == 0


def test_an_adapter_of_lite_with_an_extra_tensor_and_one_of_another_base(folders, tmp_path, llama):
    path = lite_adapter(folders[True], tmp_path / "adapter.safetensors", lite.LoRAConfig(), 0.1)
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
    save_file(load_file(path) | {"model.stray": torch.ones(2)}, path, metadata)
    status, rows = adapter_rows(tmp_path, folders[True], path)
    assert status == 1
    assert "extra model.stray" in rows["loads"][1]
    rewrite(llama, shrink)
    assert "was saved on another base" in adapter_rows(tmp_path, llama, path)[1]["loads"][1]


def saved_by_peft(base, path, config):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what transformers deprecates and peft asks for
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        moved(model).save_pretrained(path)
    return path


@pytest.fixture
def peft_adapter(folders, tmp_path):
    return saved_by_peft(folders[False], tmp_path / "peft", peft.LoraConfig(target_modules=["q_proj", "v_proj"]))


def same(folder):
    pass


def stray(folder):
    name = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(8, 32)}), "adapter_model.safetensors")


def pruned(folder):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    rewrite(folder, lambda tensors: tensors.pop(name), "adapter_model.safetensors")


def zeroed(folder):
    def zero(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name].zero_()

    rewrite(folder, zero, "adapter_model.safetensors")


def more_targets(folder):
    configure(folder, "adapter_config.json", target_modules=["q_proj", "v_proj", "query"])


def other_targets(folder):
    configure(folder, "adapter_config.json", target_modules=["query"])


def not_a_number(folder):
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    rewrite(folder, lambda tensors: tensors[name].fill_(torch.nan), "adapter_model.safetensors")


def finer(folder):
    """More digits than the model keeps."""

    def finer(tensors):
        for name in tensors:
            tensors[name] = tensors[name].double() * (1 + 2.0**-40)

    rewrite(folder, finer, "adapter_model.safetensors")


def pattern(folder):
    configure(folder, "adapter_config.json", alpha_pattern={"k_projj": 3})


UNREADABLE = "'(' (target_modules) is no regular expression: missing ), unterminated subpattern at position 0"


def unreadable(folder):
    configure(folder, "adapter_config.json", target_modules="(")


def newer(folder):
    configure(folder, "adapter_config.json", some_future_option=True)


@pytest.mark.parametrize(
    ("spoil", "red"),
    [
        (same, {}),
        (stray, {"tensors of the file that no module took": "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"}),
        (pruned, {"tensors of the adapter that the file lacks": "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"}),
        (finer, {"tensors that came out with other values": None}),
        (zeroed, {"moves the output": "loaded, but does nothing: ‖y − y_base‖/‖y_base‖ = 0"}),
        (not_a_number, {"moves the output": "it is not finite any more"}),
        (more_targets, {"modules that the config names": "no module is 'query' (target_modules)"}),
        (other_targets, {"modules that the config names": "no module is 'query' (target_modules)", "loads": None}),
        (pattern, {"modules that the config names": "no module is 'k_projj' (alpha_pattern)"}),
        (unreadable, {"modules that the config names": UNREADABLE, "loads": None}),
        (newer, {"keys of the config that peft does not know": "some_future_option"}),
    ],
)
def test_an_adapter_of_peft(folders, tmp_path, peft_adapter, spoil, red):
    spoil(peft_adapter)
    status, rows = adapter_rows(tmp_path, folders[False], peft_adapter)
    assert status == (1 if red else 0)
    failed = {what: got for what, (verdict, got) in rows.items() if verdict == "fails"}
    assert failed.keys() == red.keys()
    assert all(expected in (None, failed[what]) for what, expected in red.items())


@pytest.mark.parametrize(
    "embedding", [{"trainable_token_indices": [1, 2]}, {"target_modules": ["q_proj", "embed_tokens"]}], ids=["tokens", "whole"]
)
def test_an_adapter_of_an_embedding(folders, tmp_path, embedding):
    config = peft.LoraConfig(**{"target_modules": ["q_proj"]} | embedding)
    adapter = saved_by_peft(folders[False], tmp_path / "peft", config)
    status, rows = adapter_rows(tmp_path, folders[False], adapter)
    assert (status, {verdict for verdict, _ in rows.values()}) == (0, {"identical"})


def test_an_adapter_that_changes_the_shape_of_the_output(folders, tmp_path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8)
    status, rows = adapter_rows(tmp_path, folders[False], saved_by_peft(folders[False], tmp_path / "peft", config))
    assert status == 1
    assert {what: got for what, (verdict, got) in rows.items() if verdict == "fails"} == {
        "moves the output": "the output has another shape: logits (1, 72, 97) instead of logits (1, 64, 97)"
    }


def bin_only(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "there is no adapter"),
        (bin_only, "adapter_model.bin can run code when it is read"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "cannot be read"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"1234"), "no complete safetensors file"),
        (lambda folder: configure(folder, "adapter_config.json", megatron_config={}, megatron_core="os"), None),
        (
            lambda folder: configure(folder, "adapter_config.json", megatron_config={"a": 1}, megatron_core="os"),
            "module for peft to import",
        ),
    ],
)
def test_an_adapter_that_cannot_be_used(folders, capsys, peft_adapter, spoil, told):
    spoil(peft_adapter)
    status, out, err = said(capsys, folders[False], *QUICK, *ONE, "--adapter", peft_adapter)
    assert status == (2 if told else 0)
    assert bool(told) == (not out)  # before the long work
    assert (told or "") in err


def test_a_json_in_no_folder(folders, tmp_path, capsys):
    status, out, err = said(capsys, folders[False], *QUICK, "--json", tmp_path / "none" / "found.json")
    assert (status, out) == (2, "")
    assert f"there is no folder {tmp_path / 'none'}" in err


def test_names_in_a_few_words():
    names = [f"h.{i}.{part}" for i in (0, 1, 2, 5) for part in ("up", "down")] + ["head", "h.7.gate"]
    assert abbreviated(names) == ["h.{0–2, 5}.up", "h.{0–2, 5}.down", "head", "h.7.gate"]
    assert abbreviated(f"h.{i}.experts.{j}.up" for i in range(2) for j in range(3)) == ["h.{0–1}.experts.{0–2}.up"]
    assert [ranges([3]), ranges([1, 3])] == ["3", "{1, 3}"]
    assert START == ".start"  # what a file of lite's ends names of starts with
