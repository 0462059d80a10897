"""Whole models: the same numbers everywhere, guarded shapes, and a mode that leaves nothing in float32."""

import pytest
import torch

from refs import minilm
from refs.models import IGNORED, MODELS, VOCABULARY
from refs.wide import Rounded, Wide

real = pytest.mark.skipif(minilm.missing() is not None, reason="no text without MiniLM's package")
TINY = [model for model in MODELS.values() if model.arguments]


@pytest.mark.parametrize("model", TINY, ids=[model.name for model in TINY])
def test_numbers_are_what_float32_can_hold_and_the_generator_is_left_alone(model):
    before = torch.get_rng_state()
    one, other = model.fresh(), model.fresh(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter.float(), other.get_parameter(name)), name
        assert parameter.std() > 0, name


def test_known_numbers_of_one_weight():
    weight = MODELS["llama"].fresh().get_parameter("model.layers.0.self_attn.k_proj.weight")
    assert weight.shape == (24, 32)
    assert [round(value, 6) for value in weight[0, :3].tolist()] == [-0.133635, 0.021355, 0.073959]


def test_copies_share_nothing_and_output_and_embedding_are_tied_where_the_architecture_ties_them():
    one, other = MODELS["qwen3"].fresh(), MODELS["qwen3"].fresh()
    with torch.no_grad():
        one.get_input_embeddings().weight.zero_()
    assert not one.get_output_embeddings().weight.any()
    assert other.get_output_embeddings().weight.all()
    llama = MODELS["llama"].fresh()
    assert llama.get_output_embeddings().weight is not llama.get_input_embeddings().weight


@real
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_batch_is_padded_and_padding_counts_for_nothing(model):
    batch = model.batch()
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert not model.arguments or int(batch["input_ids"].max()) < VOCABULARY
    if model.labelled:
        assert (batch["labels"] == IGNORED).any()
    base = model.fresh(blocks=1)
    other = batch | {"input_ids": batch["input_ids"].masked_fill(padding, 5)}
    with torch.no_grad(), Wide():
        assert model.outputs(base, batch)["loss"] == pytest.approx(float(model.outputs(base, other)["loss"]), rel=1e-12)


@real
@pytest.mark.parametrize("model", TINY, ids=[model.name for model in TINY])
def test_names_end_where_they_should_and_every_layer_is_named_once(model):
    base = model.fresh()
    assert len(model.named(base, model.keys_values)) in (2, 4, 12)
    assert set(model.named(base, (*model.keys_values, *model.feed_forward))) <= set(model.named(base, model.layers))


def test_wide_gives_float64_to_whoever_asks_for_float32():
    x = torch.ones(3, dtype=torch.float64)
    with Wide():
        asked = [x.float(), x.to(torch.float32), torch.softmax(x, 0, dtype=torch.float32), torch.zeros(2, dtype=torch.float32)]
    assert {value.dtype for value in asked} == {torch.float64}
    assert x.float().dtype == torch.float32


def test_rounded_moves_results_and_gradients_by_one_rounding_and_comes_back_the_same():
    def run(*key):
        x = torch.full((1000,), 2.0, dtype=torch.float64, requires_grad=True)
        if not key:
            return torch.autograd.grad((y := x * x).sum(), x)[0], y.detach()
        with Rounded(*key):
            y = x * x
        return torch.autograd.grad(y.sum(), x)[0], y.detach()

    plain, moved, again, other = run(), run(1), run(1), run(2)
    for p, m, a, o in zip(plain, moved, again, other, strict=True):
        relative = (m / p - 1) * 2.0**24
        assert relative.abs() == pytest.approx(1.0, rel=1e-6)
        assert 400 < int((relative > 0).sum()) < 600
        assert torch.equal(m, a)
        assert not torch.equal(m, o)
