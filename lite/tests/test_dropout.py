"""Dropout acts while the adapted layer trains, on the adapter's input, and never otherwise."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import DROPPING, attach, each, each_config, inputs, trained


def layer_of(config):
    torch.manual_seed(0)
    return trained(attach(nn.Linear(6, 4), config))


def run(layer, seed=0):
    torch.manual_seed(seed)
    return layer(inputs(5, 6))


@each(*DROPPING)
def test_in_eval_mode_nothing_is_dropped(make):
    with_dropout, without = layer_of(make(r=2, dropout=0.9)).eval(), layer_of(make(r=2)).eval()
    assert torch.equal(run(with_dropout, 0), run(without, 1))


@each(*DROPPING)
def test_in_train_mode_the_draw_decides(make):
    layer = layer_of(make(r=2, dropout=0.5)).train()
    assert torch.equal(run(layer, 0), run(layer, 0))
    assert not torch.equal(run(layer, 0), run(layer, 1))
    assert not torch.equal(run(layer, 0), run(layer.eval(), 0))


@each_config
def test_without_dropout_modes_agree(make):
    layer = layer_of(make(r=2))
    assert torch.equal(run(layer.train(), 0), run(layer.eval(), 1))


@each_config
def test_without_dropout_or_training_nothing_is_drawn(make):
    for layer in (layer_of(make(r=2)).train(), layer_of(make(r=2, dropout=0.5)).eval()):
        torch.manual_seed(0)
        layer(inputs(5, 6))
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


@each(*DROPPING)
def test_the_mode_is_the_layers_own(make):
    layer = layer_of(make(r=2, dropout=0.5))
    model = nn.Sequential(layer).train()
    layer.eval()
    assert torch.equal(run(model, 0), run(model, 1))
    model.eval()
    layer.train()
    assert not torch.equal(run(model, 0), run(model, 1))


@each(*DROPPING)
def test_dropping_nearly_everything_leaves_the_base(make):
    layer = layer_of(make(r=2, dropout=1 - 1e-9)).train()
    torch.testing.assert_close(run(layer), nn.functional.linear(inputs(5, 6), layer.weight, layer.bias))


@pytest.mark.parametrize("dropout", [0.25, 0.5, 0.9])
def test_what_is_kept_is_scaled_up(dropout):
    layer = nn.Linear(8, 8, bias=False)
    nn.init.zeros_(layer.weight)
    lite.attach(layer, lite.LoRAConfig(r=8, alpha=8, dropout=dropout))
    with torch.no_grad():
        layer.lora_A.copy_(torch.eye(8))
        layer.lora_B.copy_(torch.eye(8))
    torch.manual_seed(0)
    x = 1 + torch.rand(500, 8)
    ratio = layer(x) / x
    kept = ratio != 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / (1 - dropout)))
    assert abs(kept.float().mean() - (1 - dropout)) < 0.03


@each(*DROPPING)
def test_a_full_dropout_average_is_the_output_without(make):
    layer, x = layer_of(make(r=2, dropout=0.5)), inputs(1, 6)
    torch.manual_seed(0)
    average = layer.train()(x.expand(40_000, 6)).mean(0)
    expected = layer.eval()(x)[0]
    assert (average - expected).norm() < 0.03 * expected.norm()
