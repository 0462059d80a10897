"""`attach` changes nothing that `detach` cannot undo to the bit."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

import lite
from lite.tests.formulas import formula
from lite.tests.toys import (
    CONFIGS,
    IN_FRONT,
    RESIDUAL,
    TRAINED,
    alive,
    attach,
    bits,
    each,
    each_config,
    each_variant,
    inputs,
    net,
    snapshot,
    trainable,
    trained,
)

FIRST = lite.LoRAConfig(r=2, target_names=["first"])


def disjoint(one=lite.LoRAConfig, other=lite.DeLoRAConfig):
    return [one(r=2, target_names=["first"]), other(r=3, target_names=["last"])]


@each_variant
def test_attach_adds_the_adapters_tensors_and_trains_only_these(variant):
    model = net()
    base = dict(model.named_parameters())
    attach(model, CONFIGS[variant](r=2))
    assert list(trainable(model)) == [f"{layer}.{name}" for layer in ("first", "last") for name in TRAINED[variant]]
    replaced = {name for name, parameter in base.items() if dict(model.named_parameters())[name] is not parameter}
    assert replaced == ({"first.weight", "last.weight"} if variant in RESIDUAL else set())


@each_config
def test_attach_and_detach_return_the_model(make):
    model = net()
    assert attach(model, make(r=2)) is model
    assert lite.detach(model) is model


@each_config
def test_detach_restores_the_model_bit_for_bit(make):
    model, x = net(), inputs()
    before, y = snapshot(model), model(x)
    attach(model, make(r=2, dropout=0.5))
    attached = snapshot(model)
    assert attached != before
    assert not torch.equal(trained(model)(x), y)
    assert snapshot(lite.detach(model)) == before
    assert torch.equal(model(x), y)


@each_config
def test_detach_restores_the_model_after_training(make):
    model = net()
    before = snapshot(model)
    attach(model, make(r=2))
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(inputs()).square().sum().backward()
        optimizer.step()
    assert snapshot(lite.detach(model)) == before


@each_config
def test_modes_set_after_attach_outlive_detach(make):
    model = attach(net(), make(r=2))
    model.eval()
    model.norm.train()
    lite.detach(model)
    assert [module.training for module in (model, model.first, model.norm, model.last)] == [False, False, True, False]


@each_config
def test_only_the_adapters_train(make):
    model = attach(net(), make(r=2))
    base = {name: bits(p) for name, p in model.named_parameters() if not p.requires_grad}
    start = {name: bits(p) for name, p in trained(model).named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(inputs()).square().sum().backward()
    assert sorted(base) == ["first.bias", "first.weight", "last.bias", "last.weight", "norm.bias", "norm.weight"]
    assert all(dict(model.named_parameters())[name].grad is None for name in base)
    optimizer.step()
    assert {name: bits(p) for name, p in model.named_parameters() if not p.requires_grad} == base
    assert [name for name, p in trainable(model).items() if bits(p) == start[name]] == []


@each_config
def test_the_input_still_gets_its_gradient(make):
    model, x = trained(attach(net(), make(r=2))), inputs().requires_grad_()
    model(x).square().sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("make", [lite.LoRAConfig, lite.DeLoRAConfig], ids=["lora", "delora"])
def test_hooks_of_the_model_itself_run_before_the_adapter_and_stay(make):
    model, x, config = net(), inputs(), make(r=2, target_names=["first"])
    own = dict(model.first._forward_hooks)
    plain = functional.linear(x, model.first.weight, model.first.bias)
    trained(lite.attach(model, config))
    torch.testing.assert_close(model.first(x), plain + formula(config, model.first, x).float())
    lite.detach(model)
    assert dict(model.first._forward_hooks) == own
    assert torch.equal(model.first(x), 2 * plain)


@each(*IN_FRONT)
def test_hooks_of_the_model_itself_run_in_front_of_the_adapter_in_front_and_stay(make):
    model, x, config = net(), inputs(), make(r=2, target_names=["last"])
    model.last.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    own, x = dict(model.last._forward_pre_hooks), inputs(3, 8)
    y = model.last(x)
    trained(lite.attach(model, config))
    torch.testing.assert_close(model.last(x), formula(config, model.last, x + 1).float())
    lite.detach(model)
    assert dict(model.last._forward_pre_hooks) == own
    assert torch.equal(model.last(x), y)


@pytest.mark.parametrize("many", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_several_configs_attach_at_once(many):
    model = net()
    before = snapshot(model)
    lite.attach(model, many(disjoint()))
    names = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
    assert names == {
        "first.lora_A": (2, 6),
        "first.lora_B": (8, 2),
        "last.lora_A": (3, 8),
        "last.lora_B": (4, 3),
        "last.lora_lambda": (),
    }
    assert snapshot(lite.detach(model)) == before


@each_config
def test_parameters_added_after_attach_outlive_detach(make):
    model = net()
    before = snapshot(model.first)
    attach(model, make(r=2))
    model.head = nn.Linear(4, 2)
    lite.detach(model)
    assert snapshot(model.first) == before
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    assert model.last.weight.requires_grad
    lite.detach(attach(model, make(r=2, target_names=["first", "last"])))


class Forwarding(nn.Module):
    """A wrapper that answers for what it wraps, as torch.compile's and peft's do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


def test_detach_through_a_forwarding_wrapper_is_done_or_refused_but_not_half_done():
    model = net()
    before = snapshot(model)
    wrapper = Forwarding(lite.attach(model, FIRST))
    attached = snapshot(model)
    assert attached != before
    try:
        lite.detach(wrapper)
    except RuntimeError:
        assert snapshot(model) == attached
    else:
        assert snapshot(model) == before


@each_config
def test_ten_cycles_leak_nothing(make):
    model, seen = net(), []
    before, parts = snapshot(model), alive(model)
    for _ in range(10):
        attach(model, make(r=2))
        seen += [weakref.ref(parameter) for parameter in trainable(model).values()]
        lite.detach(model)
    gc.collect()
    assert len(seen) >= 20
    assert [ref for ref in seen if ref() is not None] == []
    assert alive(model) == parts
    assert snapshot(model) == before
