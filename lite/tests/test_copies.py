"""An adapted model is still a torch module: it is copied, pickled, cast and loaded like any other."""

import copy
import io
import pickle

import pytest
import torch

import lite
from lite.tests.formulas import formula
from lite.tests.toys import (
    CONFIGS,
    adapted,
    all_bits,
    attach,
    bits,
    each_config,
    inputs,
    net,
    snapshot,
    trainable,
    trained,
)

TWO = [lite.DoRAConfig(r=2, target_names=["first"]), lite.PiSSAConfig(r=3, target_names=["last"])]
IN_FRONT = [lite.IA3FFConfig(target_names=["first"]), lite.HRAConfig(r=2, target_names=["last"])]
each_attachment = pytest.mark.parametrize(
    "configs", [*(make(r=2) for make in CONFIGS.values()), TWO, IN_FRONT], ids=[*CONFIGS, "two", "two in front"]
)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def torch_saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


each_way = pytest.mark.parametrize("copied", [copy.deepcopy, pickled, torch_saved], ids=["deepcopy", "pickle", "torch.save"])


@each_way
@each_attachment
def test_a_copy_is_equal_and_independent(copied, configs):
    model, x = adapted(configs), inputs()
    y, state = model(x), all_bits(model)
    other = copied(model)
    assert all_bits(other) == state
    assert torch.equal(other(x), y)
    assert list(trainable(other)) == list(trainable(model))
    assert not {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    assert not torch.equal(trained(other, seed=5)(x), y)
    assert all_bits(model) == state
    assert torch.equal(model(x), y)


@each_way
@each_attachment
def test_a_copy_detaches_without_the_original(copied, configs):
    model, x = adapted(configs), inputs()
    y, state = model(x), snapshot(model)
    other = lite.detach(copied(model))
    assert all_bits(other) == all_bits(net())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in net().parameters()]
    assert torch.equal(other(x), net()(x))
    assert snapshot(model) == state
    assert torch.equal(model(x), y)


@each_way
@each_attachment
def test_the_original_detaches_without_the_copy(copied, configs):
    model, x = adapted(configs), inputs()
    other, y = copied(model), model(x)
    lite.detach(model)
    assert torch.equal(other(x), y)
    assert torch.equal(model(x), net()(x))


@each_way
@each_attachment
def test_a_copy_saves_its_own_values(copied, configs, tmp_path):
    model = adapted(configs)
    other = trained(copied(model), seed=7)
    lite.save(other, tmp_path / "other")
    loaded = lite.load(net(), tmp_path / "other")
    assert all_bits(loaded) == all_bits(other) != all_bits(model)


@each_way
def test_a_copy_is_attached_already(copied):
    other = copied(adapted(lite.DeLoRAConfig()))
    with pytest.raises(RuntimeError, match="delora is attached already"):
        lite.attach(other, lite.DeLoRAConfig())
    lite.attach(lite.detach(other), lite.LoRAConfig())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@each_attachment
def test_the_adapters_follow_a_cast_of_the_model(configs, dtype):
    model, x = adapted(configs), inputs()
    y, values = model(x), dict(model.state_dict())
    model.to(dtype)
    assert {name: bits(value) for name, value in model.state_dict().items()} == {n: bits(v.to(dtype)) for n, v in values.items()}
    cast = model(x.to(dtype))
    assert cast.dtype is dtype
    assert (cast.double() - y.double()).norm() < (1e-5 if dtype is torch.float64 else 0.1) * y.double().norm()
    (cast.double() * inputs(*cast.shape, seed=9)).sum().backward()  # a turn does not change the sum of squares
    assert {parameter.grad.dtype for parameter in trainable(model).values()} == {dtype}
    assert [name for name, parameter in trainable(model).items() if not parameter.grad.any()] == []
    assert all_bits(lite.detach(model)) == all_bits(net().to(dtype))


@each_config
def test_a_cast_reaches_the_values_and_not_only_the_output(make):
    config = make(r=2, target_names=["first"])
    layer, x = adapted(config).double().first, inputs().double()
    layer._forward_hooks.pop(next(iter(layer._forward_hooks)))  # the net's own, which doubles
    torch.testing.assert_close(layer(x), formula(config, layer, x), rtol=1e-6, atol=1e-6)


@each_config
def test_adapters_of_another_dtype_follow_a_cast_too(make):
    model = adapted(make(r=2, dtype=torch.float32)).double()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(inputs().double()).dtype is torch.float64


@each_attachment
def test_a_state_dict_goes_into_another_adapted_model(configs):
    model, other, x = adapted(configs), trained(attach(net(), configs), seed=9), inputs()
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict(), strict=True)
    assert all_bits(other) == all_bits(model)
    assert torch.equal(other(x), model(x))


@each_config
def test_the_base_loads_into_a_plain_model_again(make):
    model = adapted(make(r=2))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*lora_"):
        net().load_state_dict(model.state_dict())
    net().load_state_dict(lite.detach(model).state_dict(), strict=True)


@each_config
def test_parameters_can_be_swapped_functionally(make):
    model, x = adapted(make(r=2)), inputs()
    y = model(x)
    other = {name: parameter + 0.1 for name, parameter in trainable(model).items()}
    moved = torch.func.functional_call(model, other, (x,))
    assert not torch.equal(moved, y)
    assert torch.equal(model(x), y)
