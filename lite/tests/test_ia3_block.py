"""IA3 as in its paper: keys and values by their outputs, the feed-forward block by the input of its last layer, at once."""

import pytest
import torch
from torch import Tensor, nn

import lite
from lite.tests.toys import all_bits, inputs, snapshot, trainable, trained

CONFIGS = [lite.IA3Config(target_names=[r"\.(k|v)$"]), lite.IA3FFConfig(target_names=["down$"])]
each_call = pytest.mark.parametrize("keyword", [False, True], ids=["by position", "by keyword"])


class Block(nn.Module):
    """Attention of one head and a feed-forward block, (…, tokens, 6) → (…, tokens, 6)."""

    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        self.keyword = keyword
        self.attention = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("q", "k", "v", "o")})
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        """As the model calls its layers."""
        return layer(input=x) if self.keyword else layer(x)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, tokens, 6)."""
        q, k, v = (self.call(self.attention[name], x) for name in ("q", "k", "v"))
        x = x + self.call(self.attention["o"], (q @ k.mT).softmax(dim=-1) @ v)
        return x + self.call(self.down, self.call(self.up, x).relu())


def block(*, keyword: bool) -> Block:
    """The same Block at every call."""
    torch.manual_seed(0)
    return Block(keyword=keyword).double()


def by_hand(model: Block, x: Tensor) -> Tensor:
    """The paper's block with gains l_k, l_v and l_ff."""
    a = model.attention

    def linear(layer: nn.Module, x: Tensor) -> Tensor:
        return x @ layer.weight.T + layer.bias

    k, v = a["k"].lora_g * linear(a["k"], x), a["v"].lora_g * linear(a["v"], x)
    x = x + linear(a["o"], torch.softmax(linear(a["q"], x) @ k.mT, dim=-1) @ v)
    return x + linear(model.down, model.down.lora_g * linear(model.up, x).clamp(min=0))


def tokens() -> Tensor:
    """x (2, 5, 6)."""
    return inputs(2, 5, 6, dtype=torch.float64)


@each_call
def test_exactly_the_papers_gains_are_there_and_change_nothing_yet(keyword):
    model, x = block(keyword=keyword), tokens()
    y = model(x)
    lite.attach(model, CONFIGS)
    names = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
    assert names == {"attention.k.lora_g": (6,), "attention.v.lora_g": (6,), "down.lora_g": (10,)}
    assert torch.equal(model(x), y)


@each_call
def test_the_block_computes_what_the_paper_says(keyword):
    model, x = trained(lite.attach(block(keyword=keyword), CONFIGS)), tokens()
    torch.testing.assert_close(model(x), by_hand(model, x), rtol=1e-12, atol=1e-12)
    one, other = (torch.autograd.grad(f(x).square().sum(), trainable(model).values()) for f in (model, lambda x: by_hand(model, x)))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.any()
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@each_call
def test_both_come_back_from_one_file_and_detach_takes_both_out(keyword, tmp_path):
    model, x = block(keyword=keyword), tokens()
    before, y = snapshot(model), model(x)
    trained(lite.attach(model, CONFIGS))
    lite.save(model, tmp_path / "file")
    fresh = lite.load(block(keyword=keyword), tmp_path / "file")
    assert all_bits(fresh) == all_bits(model)
    assert torch.equal(fresh(x), model(x))
    assert not torch.equal(model(x), y)
    assert snapshot(lite.detach(model)) == before
    assert torch.equal(model(x), y)
    assert torch.equal(lite.detach(fresh)(x), y)


def test_a_block_called_by_keyword_is_the_block():
    one, other = (trained(lite.attach(block(keyword=keyword), CONFIGS)) for keyword in (False, True))
    assert torch.equal(one(tokens()), other(tokens()))
