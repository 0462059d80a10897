"""Which layers a config reaches, seen from outside: the layers that own adapter tensors after `attach`."""

import re

import peft
import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import Net, OtherLinear, all_bits, attach, each_config, inputs, net, snapshot, trained


class Block(nn.Module):
    """Two projections of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        """x (…, 4) → (…, 4)."""
        return x + self.down(self.up(x))


class Stack(nn.Module):
    """Blocks in `h`, with an embedding, an embedding projection and a head."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 4)
        self.embed_proj = nn.Linear(4, 4)
        self.h = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv2d(1, 1, 1)
        self.lm_head = nn.Linear(4, 7)

    def forward(self, tokens):
        """tokens (…,) → (…, 7)."""
        x = self.embed_proj(self.embed_tokens(tokens))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.norm(x))


BLOCKS = {f"h.{i}.{name}" for i in range(3) for name in ("up", "down")}


TOKENS = [torch.arange(7).repeat(3)]


def reached(model, config, data=None):
    attach(model, config, data)
    return {name.rpartition(".")[0] for name in model.state_dict() if name.rpartition(".")[2].startswith("lora_")}


@each_config
def test_no_names_mean_every_linear_layer_but_the_excluded(make):
    assert reached(Stack(), make(r=2), TOKENS) == BLOCKS


def test_no_names_and_no_exclusions_mean_every_linear_layer():
    assert reached(Stack(), lite.LoRAConfig(exclude_names=())) == BLOCKS | {"embed_proj", "lm_head"}


BY_NAME = {
    ("up",): {"h.0.up", "h.1.up", "h.2.up"},
    ("up$", "2"): {"h.0.up", "h.1.up", "h.2.up", "h.2.down"},
    (r"^h\.1\.",): {"h.1.up", "h.1.down"},
    ("h.[02].down",): {"h.0.down", "h.2.down"},
    ("(?i)UP",): {"h.0.up", "h.1.up", "h.2.up"},
    ("h", "lm_head"): BLOCKS,
}


@pytest.mark.parametrize("names", BY_NAME, ids=" ".join)
def test_names_are_searched_in_the_full_name(names):
    assert reached(Stack(), lite.LoRAConfig(target_names=names)) == BY_NAME[names]


def test_exclusions_win_over_names():
    config = lite.LoRAConfig(target_names=["up", "lm_head"], exclude_names=[r"\.1\.", "embed"])
    assert reached(Stack(), config) == {"h.0.up", "h.2.up", "lm_head"}


@pytest.mark.parametrize("wanted", [(0,), (2, 0), (0, 1, 2, 9)], ids=str)
def test_layers_are_the_first_number_in_the_name(wanted):
    assert reached(Stack(), lite.LoRAConfig(layers=wanted)) == {name for name in BLOCKS if int(name[2]) in wanted}


def test_layers_leave_out_what_is_in_no_block():
    assert reached(Stack(), lite.LoRAConfig(layers=(1,), exclude_names=())) == {"h.1.up", "h.1.down"}


def test_a_block_within_a_block_counts_by_the_outer_one():
    model = nn.ModuleList([nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(2, 3))])
    assert reached(model, lite.LoRAConfig(layers=(1,))) == {"1.0"}


@pytest.mark.parametrize(
    "options",
    [{"target_names": ["nowhere"]}, {"layers": (9,)}, {"target_roles": ("inner",)}],
    ids=lambda options: next(iter(options)),
)
@each_config
def test_no_match_is_refused_with_what_was_asked_and_what_was_there(make, options):
    model = Stack(1)
    before, config = snapshot(model), make(**options)
    with pytest.raises(ValueError, match=f"^{make.config.__name__} matches no layer: ") as error:
        lite.attach(model, config)
    (name,) = options
    assert f"{name}={getattr(config, name)!r}" in str(error.value)
    there = str(error.value).partition("layers are: ")[2]
    assert there == "embed_proj (reader), h.0.up (reader), h.0.down (writer), lm_head (reader)"
    assert snapshot(model) == before


def test_no_layers_are_no_match():
    with pytest.raises(ValueError, match=r"matches no layer: .*layers=\(\)"):
        lite.attach(Stack(), lite.LoRAConfig(layers=()))


def test_a_long_list_of_what_was_there_is_cut():
    with pytest.raises(ValueError, match=r"h\.9\.up \(reader\), and 4 more$") as error:
        lite.attach(Stack(11), lite.LoRAConfig(target_names=["nowhere"]))
    assert len(re.findall(r"\((?:reader|writer|inner)\)", str(error.value))) == 20


@pytest.mark.parametrize(
    "model", [nn.LayerNorm(4), nn.Embedding(4, 4), nn.Bilinear(4, 4, 4), nn.LSTM(4, 4)], ids=lambda m: type(m).__name__
)
def test_what_is_not_linear_is_no_target(model):
    with pytest.raises(ValueError, match=r"layers are: none$"):
        lite.attach(model, lite.LoRAConfig(exclude_names=()))


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
