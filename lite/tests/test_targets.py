"""Which layers a config reaches, seen from outside: the layers that own adapter tensors after `attach`."""

import re

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import each_config, reached, snapshot


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
