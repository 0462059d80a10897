"""Roles towards the residual stream, and transformers' own models from attach to detach."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import lite
from lite.tests.toys import EXACT, SMALL, attach, each_config, reached, snapshot, trained


def bert() -> nn.Module:
    return BertModel(
        BertConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=11,
            max_position_embeddings=9,
        )
    )


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=9, bos_token_id=0, eos_token_id=0))


def llama(head_dim: int = 2) -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=head_dim,
            intermediate_size=20,
            vocab_size=11,
            max_position_embeddings=9,
        )
    )


@dataclasses.dataclass(frozen=True)
class Known:
    """A kind of model and the roles of its layers, by the name within a block."""

    build: Callable[[], nn.Module]
    block: str
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    other_readers: tuple[str, ...] = ()

    def names(self, role: str) -> set[str]:
        """The full names of the layers with a role."""
        inside = {"reader": self.readers, "writer": self.writers, "inner": ()}[role]
        outside = self.other_readers if role == "reader" else ()
        return {f"{self.block}.{number}.{name}" for number in (0, 1) for name in inside} | set(outside)


MODELS = {
    "bert": Known(
        bert,
        "encoder.layer",
        ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"),
        ("attention.output.dense", "output.dense"),
        ("pooler.dense",),
    ),
    "gpt2": Known(gpt2, "transformer.h", ("attn.c_attn", "mlp.c_fc"), ("attn.c_proj", "mlp.c_proj")),
    "llama": Known(
        llama,
        "model.layers",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
        ("self_attn.o_proj", "mlp.down_proj"),
    ),
    "llama, wide heads": Known(
        lambda: llama(head_dim=6),
        "model.layers",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
        ("self_attn.o_proj", "mlp.down_proj"),
    ),
}
each_model = pytest.mark.parametrize("known", MODELS.values(), ids=MODELS)


@each_model
@pytest.mark.parametrize("role", ["reader", "writer"])
def test_a_role_selects_its_layers(known, role):
    assert reached(known.build(), lite.LoRAConfig(target_roles=(role,))) == known.names(role)


@each_model
def test_both_roles_are_all_layers_and_no_role_is_no_filter(known):
    everything = known.names("reader") | known.names("writer")
    assert reached(known.build(), lite.LoRAConfig(target_roles=("reader", "writer"))) == everything
    assert reached(known.build(), lite.LoRAConfig()) == everything


@each_model
def test_roles_names_and_layers_narrow_together(known):
    config = lite.LoRAConfig(target_roles=("writer",), layers=(1,), target_names=("attn", "attention"))
    assert reached(known.build(), config) == {
        name for name in known.names("writer") if name.startswith(f"{known.block}.1.att") or ".1.self_attn" in name
    }


class Bottleneck(nn.Module):
    """Readers, writers and a layer that touches the residual stream at neither end; most widths are 6."""

    def __init__(self, hidden: int | None) -> None:
        super().__init__()
        if hidden:
            self.config = type("Config", (), {"hidden_size": hidden})()
        self.down, self.middle, self.up = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(3, 6)
        self.query, self.out_proj = nn.Linear(6, 6), nn.Linear(6, 6)


@pytest.mark.parametrize(
    ("hidden", "role", "expected"),
    [
        (None, "reader", {"down", "query"}),
        (None, "writer", {"up", "out_proj"}),
        (None, "inner", {"middle"}),
        (4, "reader", {"middle"}),
        (4, "writer", {"down"}),
        (4, "inner", {"up", "query", "out_proj"}),
    ],
)
def test_the_stream_is_as_wide_as_the_model_says_or_as_most_layers_are(hidden, role, expected):
    assert reached(Bottleneck(hidden), lite.LoRAConfig(target_roles=(role,))) == expected


TOKENS = torch.randint(11, (10, 9), generator=torch.Generator().manual_seed(0))


def output(model: nn.Module) -> Tensor:
    """Everything that the model computes for some tokens."""
    tokens = torch.tensor([[1, 5, 3, 9], [2, 2, 10, 4]])
    return torch.cat([part.flatten() for part in model(tokens, use_cache=False).to_tuple()])


@each_config
@each_model
def test_a_transformer_is_adapted_and_restored(known, make):
    torch.manual_seed(0)
    model = known.build().eval()
    before, y = snapshot(model), output(model)
    attach(model, make(r=2), [TOKENS])
    if make.variant.name in EXACT:
        assert torch.equal(output(model), y)
    assert (output(model) - y).norm() < max(1e-3, SMALL.get(make.variant.name, 0)) * y.norm()
    moved = output(trained(model))
    assert (moved - y).norm() > 1e-3 * y.norm()
    moved.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()] == []
    assert [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []
    assert snapshot(lite.detach(model)) == before
    assert torch.equal(output(model), y)
