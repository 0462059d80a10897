"""Layers that are reached or left alone for what they are: the model itself, torch's attention, shared and wrapped ones."""

import peft
import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import Net, OtherLinear, all_bits, attach, each_config, inputs, net, reached, snapshot, trained


@each_config
def test_a_model_can_be_a_single_layer(make):
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 4), inputs(3, 5)
    before, y = snapshot(layer), layer(x)
    assert reached(layer, make(r=2)) == {""}
    assert not torch.equal(trained(layer)(x), y)
    assert snapshot(lite.detach(layer)) == before


def test_a_single_layer_that_does_not_match_is_named():
    with pytest.raises(ValueError, match=r"layers are: \(the model itself\) \(reader\)$"):
        lite.attach(nn.Linear(5, 5), lite.LoRAConfig(target_names=["q"]))


class Attending(nn.Module):
    """Attention between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.proj_in, self.attention, self.proj_out = nn.Linear(3, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 8)

    def forward(self, x):
        """x (tokens, batch, 3) → (tokens, batch, 8)."""
        x = self.proj_in(x)
        return self.proj_out(self.attention(x, x, x)[0])


@each_config
def test_the_projection_that_torch_attention_never_calls_is_no_target(make):
    assert reached(Attending(), make(r=2)) == {"proj_in", "proj_out"}
    with pytest.raises(ValueError, match=r"matches no layer.*layers are: proj_in \(\w+\), proj_out \(\w+\)$"):
        lite.attach(Attending(), make(r=2, target_names=["attention"]))


@each_config
def test_the_fast_path_of_torch_encoders_runs_the_adapters(make):
    torch.manual_seed(0)
    encoder, x = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), inputs(2, 3, 4)
    with torch.no_grad():
        y = encoder(x)
        assert reached(encoder, make(r=2), [inputs(2, 10, 4)]) == {"linear1", "linear2"}
        change = (trained(encoder)(x) - y).norm() / y.norm()
        lite.detach(encoder)
        assert torch.equal(encoder(x), y)
    assert change > 1e-2


class Tied(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.lm_head = self.body

    def forward(self, x):
        """x (…, 4) → (…, 4)."""
        return self.lm_head(self.body(x))


@each_config
def test_a_layer_under_two_names_is_adapted_once(make):
    torch.manual_seed(0)
    model, x = Tied(), inputs(3, 4)
    before = snapshot(model)
    attach(model, make(r=2, exclude_names=()))
    trained(model)
    assert len(model.body._forward_hooks | model.body._forward_pre_hooks) == 1
    assert torch.equal(model(x), model.body(model.body(x)))
    assert not torch.equal(model(x), model.body(x))
    assert snapshot(lite.detach(model)) == before


def test_a_layer_is_excluded_by_any_of_its_names():
    model = Tied()
    with pytest.raises(ValueError, match="matches no layer"):
        lite.attach(model, lite.LoRAConfig(exclude_names=("lm_head",)))


def test_layers_that_share_a_weight_have_adapters_of_their_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    before = snapshot(model)
    assert reached(model, lite.DoRAConfig()) == {"0", "1"}
    assert model[0].lora_A is not model[1].lora_A
    assert snapshot(lite.detach(model)) == before


def test_any_module_that_says_it_is_linear_is_a_target():
    assert reached(nn.ModuleDict({"other": OtherLinear(3, 4), "norm": nn.LayerNorm(3)}), lite.LoRAConfig()) == {"other"}


@pytest.fixture
def wrapped() -> nn.Module:
    """A Net whose first layer peft has adapted."""
    model = peft.get_peft_model(net(), peft.LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
    assert isinstance(model.base_model.model, Net)
    return model


@each_config
def test_of_a_wrapped_layer_the_base_is_the_target(make, wrapped):
    x = inputs()
    before, y = snapshot(wrapped), wrapped(x)
    assert reached(wrapped, make(r=2, target_names=["first.base_layer"])) == {"base_model.model.first.base_layer"}
    assert not torch.equal(trained(wrapped)(x), y)
    assert snapshot(lite.detach(wrapped)) == before
    assert torch.equal(wrapped(x), y)


def test_a_wrapper_is_no_target(wrapped):
    before = all_bits(wrapped)
    with pytest.raises(ValueError, match=r"first\.base_layer \(") as error:
        lite.attach(wrapped, lite.LoRAConfig(target_names=["first$"]))
    assert "first (" not in str(error.value)
    assert all_bits(wrapped) == before
