"""A merged model computes what the adapted one did, is a plain model, and says so; what cannot be merged is refused and stays as it was."""

import pytest
import torch
from torch import nn

import lite
from lite.merging import merged_layer
from lite.runtime import attached
from lite.tests.toys import (
    CONFIGS,
    RESIDUAL,
    Coded,
    OtherLinear,
    alive,
    attach,
    bits,
    calibration,
    each_config,
    inputs,
    net,
    snapshot,
    trained,
)
from lite.variant import variant_of

UNIT = torch.finfo(torch.float64).eps / 2


def plain():
    """Two linear layers, one with a bias, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4, bias=False)).double()


def adapted(config):
    model = attach(plain(), config, calibration(plain()) if variant_of(config).takes_data(config) else None)
    return trained(model)


@each_config
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_output_stays(make, mode):
    model, x = adapted(make(r=2)).train(mode), inputs(5, 6, dtype=torch.float64)
    before = model(x).detach()
    assert (before - plain()(x)).norm() > 1e-3 * before.norm()
    after = lite.merge(model)(x)
    assert (after - before).norm() <= 64 * UNIT * before.norm()
    assert model.training is mode


@each_config
def test_it_is_a_plain_model_again(make):
    before, model = plain(), adapted(make(r=2))
    weight = model[0].weight
    lite.merge(model)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert alive(model) == alive(before)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert bits(model[0].weight) != bits(before[0].weight)
    if variant_of(make(r=2)).name not in RESIDUAL:  # these had put another one in its place
        assert model[0].weight is weight


@each_config
def test_a_weight_is_rounded_once(make):
    model = adapted(make(r=2)).float()
    merged = merged_layer(attached(model).adapters[0])[0]
    assert merged.dtype == torch.float32
    assert merged.equal(merged_layer(attached(model.double()).adapters[0])[0].float())


def test_what_was_merged_cannot_be_merged_or_detached_again():
    model = lite.merge(adapted(CONFIGS["lora"](r=2)))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="nothing to merge; its adapters were merged already"):
        lite.merge(model)
    with pytest.raises(RuntimeError, match="merged into its weights, which stay; load the base again"):
        lite.detach(model)
    assert snapshot(model) == before


def test_another_adapter_on_a_merged_model_is_detached_as_ever():
    model = lite.merge(adapted(CONFIGS["lora"](r=2)))
    merged = snapshot(model)
    lite.attach(model, CONFIGS["hra"](r=2))
    lite.detach(model)
    assert snapshot(model) == merged
    with pytest.raises(RuntimeError, match=r"call lite\.attach first"):
        lite.detach(plain())


def test_a_steered_coefficient_counts():
    config, x = CONFIGS["antipasto"](r=2), inputs(5, 6, dtype=torch.float64)
    model = adapted(config)
    with lite.steer(model, -0.5):
        before = model(x).detach()
        lite.merge(model)
    assert (model(x) - before).norm() <= 64 * UNIT * before.norm()


@each_config
def test_wide_layers_are_merged_in_parts(make, monkeypatch):
    whole = merged_layer(attached(adapted(make(r=2))).adapters[0])[0]
    monkeypatch.setattr("lite.merging.ROWS", 4)
    assert (merged_layer(attached(adapted(make(r=2))).adapters[0])[0] - whole).norm() <= 64 * UNIT * whole.norm()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x))


def quantised():
    return nn.Sequential(Coded(6, 8, torch.int8))


def overflowing():
    model = nn.Sequential(nn.Linear(4, 4, bias=False)).half()
    nn.init.constant_(model[0].weight, 60_000.0)
    return model


REFUSED = {
    "tied": (Tied, lite.LoRAConfig(r=2), r"head: its weight is tied \(embedding.weight, head.weight\)"),
    "quantised": (quantised, lite.LoRAConfig(r=2), "holds no numbers to merge into; dequantise it"),
    "no bias to add to": (plain, lite.LoRAConfig(r=2, lora_bias=True), "2: the method has a bias .* the layer has none"),
    "other hooks": (net, lite.LoRAConfig(r=2), "first: the layer has other hooks"),
    "too large": (overflowing, lite.IA3Config(), "the merged weight would not be finite in torch.float16"),
}


@pytest.mark.parametrize(("make", "config", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, config, message):
    model = trained(lite.attach(make(), config))
    if make is overflowing:
        with torch.no_grad():
            model[0].lora_g.fill_(2.0)
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        lite.merge(model)
    assert snapshot(model) == before


def test_nothing_to_merge():
    with pytest.raises(RuntimeError, match=r"nothing to merge; call lite\.attach first"):
        lite.merge(plain())


def test_linear_likes_of_other_classes():
    model, x = nn.Sequential(OtherLinear(6, 8)).double(), inputs(5, 6, dtype=torch.float64)
    trained(lite.attach(model, lite.DoRAConfig(r=2)))
    before = model(x).detach()
    assert (lite.merge(model)(x) - before).norm() <= 64 * UNIT * before.norm()


class Scaled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def shared_bias():
    model = plain()
    model.append(nn.Linear(4, 8).double())
    model[2].bias = model[0].bias
    return model


def in_front():
    model = plain()
    model[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return model


ALSO_REFUSED = {
    "a shared bias": (shared_bias, lite.IA3Config(target_names=["0"]), r"0: its bias is tied \(0.bias, 2.bias\)"),
    "a hook in front": (in_front, lite.LoRAConfig(r=2), "0: the layer has other hooks"),
    "more than a product": (
        lambda: nn.Sequential(Scaled(6, 8)).double(),
        lite.LoRAConfig(r=2),
        "Scaled computes something else than x Wᵀ",
    ),
}


@pytest.mark.parametrize(("make", "config", "message"), ALSO_REFUSED.values(), ids=ALSO_REFUSED)
def test_also_refused(make, config, message):
    test_refused(make, config, message)


def test_a_bias_that_would_overflow_is_refused():
    model = nn.Sequential(nn.Linear(4, 4)).half()
    nn.init.constant_(model[0].bias, 60_000.0)
    lite.attach(model, lite.IA3Config())
    with torch.no_grad():
        model[0].lora_g.fill_(2.0)
    with pytest.raises(ValueError, match="the merged bias would not be finite"):
        lite.merge(model)


@each_config
def test_autocast_does_not_reach_the_merged_weight(make):
    exact = lite.merge(adapted(make(r=2)))[0].weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lite.merge(adapted(make(r=2)))[0].weight.equal(exact)


def test_a_weight_that_is_stored_transposed_is_contiguous_again():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = nn.Sequential(conv1d(8, 6))
    trained(lite.attach(model, lite.LoRAConfig(r=2)))
    assert lite.merge(model)[0].weight.is_contiguous()
