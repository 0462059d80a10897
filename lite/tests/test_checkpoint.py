"""What `save` writes, `load` brings back to the bit, onto a plain model and onto an adapted one."""

import json
import re

import pytest
import torch
from torch import nn

import lite
from lite.tests import toys
from lite.tests.files import CONFIGS, content, read
from lite.tests.toys import RESIDUAL, Coded, adapted, all_bits, attach, bits, each_config, inputs, net, snapshot, trainable, trained

REPLACES = tuple(toys.CONFIGS[name].config for name in RESIDUAL)
each_file = pytest.mark.parametrize("configs", CONFIGS.values(), ids=CONFIGS)


def replaced(configs):
    """The layers whose weight the configs replace; of two configs each has one layer."""
    of = dict(zip(("first", "last"), configs if isinstance(configs, list) else [configs, configs], strict=True))
    return [layer for layer, config in of.items() if isinstance(config, REPLACES)]


@each_file
def test_a_plain_model_gets_the_adapters_bit_for_bit(configs, tmp_path):
    model, x = adapted(configs), inputs()
    lite.save(model, tmp_path / "file")
    other = net()
    assert lite.load(other, tmp_path / "file") is other
    assert all_bits(other) == all_bits(model)
    assert torch.equal(other(x), model(x))
    assert not torch.equal(other(x), net()(x))


@each_file
def test_a_loaded_model_is_an_adapted_model(configs, tmp_path):
    model = net()
    before, adapters = snapshot(model), adapted(configs)
    lite.save(adapters, tmp_path / "file")
    lite.load(model, tmp_path / "file")
    assert list(trainable(model)) == list(trainable(adapters))
    for one in (model, adapters):
        one(inputs()).square().sum().backward()
    assert [name for name, p in trainable(model).items() if not p.grad.any()] == []
    assert {name: bits(p.grad) for name, p in trainable(model).items()} == {n: bits(p.grad) for n, p in trainable(adapters).items()}
    with pytest.raises(RuntimeError, match="attached already"):
        lite.attach(model, configs)
    assert snapshot(lite.detach(model)) == before


@each_file
def test_an_adapted_model_with_the_same_configs_gets_the_values(configs, tmp_path):
    model, other = adapted(configs), trained(attach(net(), configs), seed=8)
    lite.save(model, tmp_path / "file")
    parameters, structure = trainable(other), snapshot(other)
    moved = {f"{layer}.objects" for layer in replaced(configs)}  # a new residual each time
    assert all_bits(other) != all_bits(model)
    lite.load(other, tmp_path / "file")
    assert all_bits(other) == all_bits(model)
    assert torch.equal(other(inputs()), model(inputs()))
    assert all(trainable(other)[name] is parameter for name, parameter in parameters.items())
    assert {key for key, value in snapshot(other).items() if value != structure[key]} <= {""} | moved


@each_file
def test_an_optimizer_goes_on_after_load(configs, tmp_path):
    model = adapted(configs)
    lite.save(model, tmp_path / "file")
    optimizer = torch.optim.SGD(trainable(model).values(), lr=0.1)
    lite.load(model, tmp_path / "file")
    start = all_bits(model)
    model(inputs()).square().sum().backward()
    optimizer.step()
    assert [name for name in trainable(model) if all_bits(model)[name] == start[name]] == []


@each_file
def test_saving_changes_nothing_in_the_model(configs, tmp_path):
    model = adapted(configs)
    before = snapshot(model)
    lite.save(model, tmp_path / "file")
    assert snapshot(model) == before


@each_file
def test_load_and_save_change_nothing_in_the_file(configs, tmp_path):
    lite.save(adapted(configs), tmp_path / "one")
    lite.save(lite.load(net(), tmp_path / "one"), tmp_path / "two")
    lite.save(lite.load(lite.load(net(), tmp_path / "two"), tmp_path / "two"), tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "three")


@each_file
def test_the_same_model_gives_the_same_file_content(configs, tmp_path):
    model = adapted(configs)
    lite.save(model, tmp_path / "one")
    lite.save(model, tmp_path / "two")
    lite.save(trained(model), tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "two") != content(tmp_path / "three")


@each_file
def test_the_file_holds_the_adapters_tensors_and_nothing_else(configs, tmp_path):
    model = adapted(configs)
    lite.save(model, tmp_path / "file")
    metadata, tensors = content(tmp_path / "file")
    state = {name: value for name, value in all_bits(model).items() if "lora_" in name}
    starts = [f"{layer}.lora_{ab}.start" for layer in replaced(configs) for ab in "AB"]
    assert {name: value for name, value in tensors.items() if not name.endswith(".start")} == state
    assert sorted(name for name in tensors if name.endswith(".start")) == starts
    assert [name for name in starts if tensors[name] == tensors[name.removesuffix(".start")]] == []
    assert sorted(metadata) == ["adapters", "format", "sha256", "version"]
    assert (metadata["format"], metadata["version"]) == ("lite-adapter", "2")


@each_file
def test_the_header_holds_the_configs_and_a_fingerprint_of_each_layer(configs, tmp_path):
    lite.save(adapted(configs), tmp_path / "file")
    groups = json.loads(content(tmp_path / "file")[0]["adapters"])
    each = configs if isinstance(configs, list) else [configs]
    assert [lite.VARIANTS[group["variant"]].config for group in groups] == [type(config) for config in each]
    assert [type(c).from_dict(group["options"]) for c, group in zip(each, groups, strict=True)] == each
    layers = [list(group["layers"]) for group in groups]
    assert layers == ([["first", "last"]] if len(each) == 1 else [["first"], ["last"]])
    entries = [entry for group in groups for entry in group["layers"].values()]
    assert all(entry.keys() == {"base", "options"} for entry in entries)
    assert all(re.fullmatch("[0-9a-f]{64}", entry["base"]) for entry in entries)
    assert len({entry["base"] for entry in entries}) == 2
    assert [entry["options"] for entry in entries] == [{}, {}]  # options of a layer's own: test_eva


@each_config
def test_the_file_holds_nothing_as_large_as_a_weight(make, tmp_path):
    model = trained(attach(nn.Linear(40, 32), make(r=2, lora_bias=True)))
    lite.save(model, tmp_path / "file")
    sizes = {name: tensor.numel() for name, tensor in read(tmp_path / "file")[1].items()}
    assert max(sizes.values()) <= 2 * 40
    assert sum(size for name, size in sizes.items() if not name.endswith(".start")) <= 2 * (40 + 32) + 41
    assert sum(size for name, size in sizes.items() if name.endswith(".start")) <= 2 * (40 + 32) + 32


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_file_is_named_by_text_or_path(kind, tmp_path):
    model = adapted(CONFIGS["two"])
    lite.save(model, kind(tmp_path / "an adapter.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["an adapter.safetensors"]
    assert all_bits(lite.load(net(), kind(tmp_path / "an adapter.safetensors"))) == all_bits(model)


def test_a_new_file_replaces_the_old_one(tmp_path):
    lite.save(adapted(CONFIGS["two"]), tmp_path / "file")
    model = adapted(CONFIGS["lora"])
    lite.save(model, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert all_bits(lite.load(net(), tmp_path / "file")) == all_bits(model)


def test_loaded_values_outlive_the_file(tmp_path):
    model = adapted(CONFIGS["lora"])
    lite.save(model, tmp_path / "file")
    loaded = lite.load(net(), tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes((tmp_path / "file").stat().st_size))
    assert all_bits(loaded) == all_bits(model)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -0.0, 1e-45], ids=str)
def test_odd_numbers_survive(value, tmp_path):
    model = lite.attach(net(), CONFIGS["two"])
    nn.init.constant_(model.first.lora_A, value)
    lite.save(model, tmp_path / "file")
    assert all_bits(lite.load(net(), tmp_path / "file")) == all_bits(model)


@pytest.mark.parametrize("base", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("adapter", [None, torch.float32], ids=str)
@each_config
def test_every_dtype_survives(make, base, adapter, tmp_path):
    model = trained(attach(net().to(base), make(r=2, dtype=adapter)))
    lite.save(model, tmp_path / "file")
    assert {tensor.dtype for tensor in read(tmp_path / "file")[1].values()} == {adapter or base}
    assert all_bits(lite.load(net().to(base), tmp_path / "file")) == all_bits(model)


@each_file
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_was_cast_after_attach_comes_back_as_it_was_saved(configs, dtype, tmp_path):
    model = adapted(configs).to(dtype)
    lite.save(model, tmp_path / "file")
    other = lite.load(net().to(dtype), tmp_path / "file")
    lite.save(other, tmp_path / "again")
    assert content(tmp_path / "file") == content(tmp_path / "again")
    formed_anew = {f"{layer}.weight" for layer in replaced(configs)}  # of the base as it is now, so that its rounding differs
    bits, others = all_bits(model), all_bits(other)
    assert {name for name in bits if bits[name] != others[name]} <= formed_anew
    unit = torch.finfo(torch.float32 if dtype is torch.float64 else dtype).eps
    for name in formed_anew:
        one, two = (m.get_parameter(name).detach().double() for m in (model, other))
        assert (one - two).abs().max() <= 2 * unit * max(two.abs().max(), net().get_parameter(name).abs().max())
    assert all_bits(lite.detach(other)) == all_bits(net().to(dtype)) == all_bits(lite.detach(model))


@each_file
def test_values_of_a_wider_dtype_are_not_rounded_onto_an_adapted_model(configs, tmp_path):
    model = attach(net().bfloat16(), configs)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    lite.save(trained(model), tmp_path / "file")
    other = attach(net().bfloat16(), configs)
    before = snapshot(other)
    try:
        lite.load(other, tmp_path / "file")
    except ValueError:
        assert snapshot(other) == before
    else:
        assert {name: all_bits(other)[name] for name in trainable(other)} == {
            name: all_bits(model)[name] for name in trainable(model)
        }


def test_a_quantised_base_is_recognised(tmp_path):
    torch.manual_seed(0)
    model = trained(lite.attach(Coded(6, 4, torch.int8), lite.LoRAConfig(r=2)))
    lite.save(model, tmp_path / "file")
    torch.manual_seed(0)
    assert all_bits(lite.load(Coded(6, 4, torch.int8), tmp_path / "file")) == all_bits(model)
    with pytest.raises(ValueError, match="another base"):
        lite.load(Coded(6, 4, torch.int8), tmp_path / "file")


def test_a_model_that_is_one_layer_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = trained(lite.attach(nn.Linear(6, 4), lite.DeLoRAConfig(r=2)))
    lite.save(model, tmp_path / "file")
    torch.manual_seed(0)
    assert all_bits(lite.load(nn.Linear(6, 4), tmp_path / "file")) == all_bits(model)


def test_layers_that_no_config_targets_may_differ(tmp_path):
    model = adapted(lite.LoRAConfig(r=2, target_names=["first"]))
    lite.save(model, tmp_path / "file")
    other = net()
    nn.init.zeros_(other.last.weight)
    assert torch.equal(lite.load(other, tmp_path / "file").first(inputs()), model.first(inputs()))
