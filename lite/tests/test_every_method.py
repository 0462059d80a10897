"""What holds for every method alike: the start, tied weights, two methods at once, the option that is not there."""

import pytest
import torch
from torch import nn

import lite
from lite.layers import as_layer
from lite.tests.files import content
from lite.tests.test_forward import KINDS
from lite.tests.toys import (
    BY_OPTION_FROM_DATA,
    CONFIGS,
    EXACT,
    FROM_DATA,
    IN_FRONT,
    MAYBE_FROM_DATA,
    RESIDUAL,
    SMALL,
    TRAINED,
    all_bits,
    attach,
    bits,
    each,
    each_config,
    inputs,
    net,
    snapshot,
    trainable,
    trained,
)

NEAR = [name for name in CONFIGS if name not in EXACT]
PAIRS = [(one, other) for i, one in enumerate(CONFIGS) for j, other in enumerate(CONFIGS) if (j - i) % len(CONFIGS) in (1, 4, 5)]
each_pair = pytest.mark.parametrize(("one", "other"), PAIRS)


def test_the_tables_name_every_method():
    assert {name: variant.config for name, variant in lite.VARIANTS.items()} == {
        name: make.config for name, make in CONFIGS.items()
    }
    assert {name for name, variant in lite.VARIANTS.items() if variant.residual} == set(RESIDUAL)
    exported = {value for name, value in vars(lite).items() if name.endswith("Config")} - {lite.Config}
    assert exported == {make.config for make in CONFIGS.values()}
    assert {name for name, variant in lite.VARIANTS.items() if variant.statistics} == {
        *FROM_DATA,
        *MAYBE_FROM_DATA,
        *BY_OPTION_FROM_DATA,
    }
    assert {name for name, variant in lite.VARIANTS.items() if variant.statistics and variant.needs_data} == {
        *FROM_DATA,
        *BY_OPTION_FROM_DATA,
    }
    assert {name for name, variant in lite.VARIANTS.items() if variant.adapt_input} == set(IN_FRONT)
    layer = as_layer("", nn.Linear(6, 4))
    assert {name: tuple(make.variant.parameters(make(), layer)) for name, make in CONFIGS.items()} == TRAINED


@each(*NEAR)
@pytest.mark.parametrize("build", [build for build, _ in KINDS.values()], ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_start_that_is_no_exact_identity_is_one_up_to_rounding(make, build, dtype):
    torch.manual_seed(0)
    layer, x = build().to(dtype), inputs(30, 6, dtype=dtype)
    y = layer(x).double()
    attach(layer, make(r=4, lora_bias=True), [x])
    change = (layer(x).double() - y).norm() / y.norm()
    small = SMALL.get(make.variant.name, 0)
    assert change <= small + 20 * torch.finfo(dtype).eps
    assert (
        change > 0 or make.config is lite.HRAConfig or (dtype is torch.bfloat16 and small)
    )  # two reflections may cancel, R be too small


class Tied(nn.Module):
    """An embedding whose weight is the head's, and a layer between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.up, self.down, self.head = (
            nn.Embedding(8, 6),
            nn.Linear(6, 4),
            nn.Linear(4, 6),
            nn.Linear(6, 8, bias=False),
        )
        self.head.weight = self.tokens.weight

    def forward(self, x):
        """x (…,) of tokens → (…, 8)."""
        return self.head(self.down(self.up(self.tokens(x))))


TOKENS = torch.arange(8).repeat(4)


@each_config
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_tied_embedding_is_left_alone_and_the_tie_is_back_after_detach(make, frozen, tmp_path):
    model = Tied()
    model.tokens.weight.requires_grad_(not frozen)
    before, vectors, y = snapshot(model), bits(model.tokens(TOKENS)), model(TOKENS)
    attach(model, make(r=2, group_size=2), [TOKENS])
    assert bits(model.tokens(TOKENS)) == vectors
    assert (model(TOKENS) - y).norm() < max(1e-3, SMALL.get(make.variant.name, 0)) * y.norm()
    trained(model)(TOKENS).square().sum().backward()
    assert bits(model.tokens(TOKENS)) == vectors
    assert model.tokens.weight.grad is None
    lite.save(model, tmp_path / "file")
    other = lite.load(Tied(), tmp_path / "file")
    assert all_bits(other) == all_bits(model)
    assert bits(other.tokens(TOKENS)) == vectors
    assert lite.detach(other).head.weight is other.tokens.weight
    assert snapshot(lite.detach(model)) == before
    assert model.head.weight is model.tokens.weight


@each_config
def test_a_tie_survives_a_cast_in_between(make):
    model = attach(Tied(), make(r=2, group_size=2), [TOKENS]).double()
    lite.detach(model)
    assert model.head.weight is model.tokens.weight
    assert all_bits(model) == all_bits(Tied().double())


@each_config
def test_two_layers_with_one_weight_have_adapters_of_their_own_and_share_it_again(make, tmp_path):
    def build():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model[1].weight = model[0].weight
        return model

    model, config = build(), make(r=2, rho=1)
    before, x = snapshot(model), inputs(3, 8)
    y = model(x)
    attach(model, config)
    assert (model(x) - y).norm() < 1e-3 * y.norm()
    trained(model)
    assert trainable(model[0]).keys() == trainable(model[1]).keys()
    assert not any(torch.equal(p, trainable(model[1])[name]) for name, p in trainable(model[0]).items())
    lite.save(model, tmp_path / "file")
    assert all_bits(lite.load(build(), tmp_path / "file")) == all_bits(model)
    assert snapshot(lite.detach(model)) == before
    assert model[0].weight is model[1].weight


@each_pair
def test_two_methods_live_side_by_side(one, other, tmp_path):
    configs = [CONFIGS[one](r=2, dropout=0.1, target_names=["first"]), CONFIGS[other](r=3, target_names=["last"])]
    model = net()
    before, x = snapshot(model), inputs()
    trained(attach(model, configs))
    lite.save(model, tmp_path / "file")
    again = lite.load(net(), tmp_path / "file")
    assert torch.equal(again.eval()(x), model.eval()(x))
    lite.save(lite.load(again, tmp_path / "file"), tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "file")
    first = trained(attach(net(), configs[0], [inputs(30, 6)])).first
    assert [name for name in first.state_dict() if "lora_" in name] == [n for n in model.first.state_dict() if "lora_" in n]
    model.train()
    model.norm.eval()
    assert snapshot(lite.detach(model)) == before


@pytest.mark.parametrize("flipped", ["first.weight", "last.weight", "last.bias"])
@pytest.mark.parametrize("start", ["plain", "adapted"])
@each_config
def test_another_base_is_refused(make, start, flipped, tmp_path):
    lite.save(trained(attach(net(), make(r=2))), tmp_path / "file")
    model = net()
    model.get_parameter(flipped).data.view(torch.int32).view(-1)[3] ^= 1
    if start == "adapted":
        attach(model, make(r=2))
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"saved on another base: {flipped.partition('.')[0]} had fingerprint"):
        lite.load(model, tmp_path / "file")
    assert snapshot(model) == before


@each(*(name for name, make in CONFIGS.items() if "lora_bias" in make.options))
def test_a_bias_of_b_starts_at_zero(make):
    bias = attach(net(), make(r=2, lora_bias=True)).first.lora_b
    assert bias.requires_grad
    assert bits(bias) == bits(torch.zeros(8))
