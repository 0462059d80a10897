"""What the model is given: a text in its tokenizer's tokens, or random tokens where it has none."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance.model.checkpoint import Checkpoint
from refs.numbers import uniform

MOST = 64  # tokens: enough for a start from data, few enough that one layer's weight outweighs them
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")

TEXT = """\
The ferry left before the fog had lifted. On the upper deck a woman counted the islands aloud, as her grandfather had taught her,
and wrote each name into a small grey book. Seven were on the map; the eighth, she said, is only there in winter, when 3 or 4 seals
lie on it and the water falls far enough. Nobody believed her. "Wait until February," she answered, and closed the book."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """One sequence as the model's forward takes it. about: where it comes from."""

    batch: dict[str, Any]
    tokens: int
    about: str


def words(checkpoint: Checkpoint, file: Path | None) -> Words:
    """One sequence of at most `MOST` tokens. OSError for no such file; ValueError for an empty one, one without a tokenizer
    to read it, or a model that takes no text.
    """
    taken = inspect.signature(checkpoint.model.forward).parameters
    if "input_ids" not in taken:
        raise ValueError(f"{type(checkpoint.model).__name__} takes {', '.join(taken)}, no text (input_ids)")
    text = TEXT if file is None else file.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"--text {file} is empty")
    tokenizer, why_none = _tokenizer(checkpoint.folder)
    if tokenizer is None and file is not None:
        raise ValueError(f"--text {file} cannot be read by the model: {why_none}")
    if tokenizer is None:
        ids, about = _random(checkpoint), f"random token ids: {why_none}"
    else:
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=_most(checkpoint))["input_ids"]], dtype=torch.long)
        about = "the text built in" if file is None else str(file)
    if not ids.numel():
        raise ValueError(f"{file} holds no token")
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if getattr(checkpoint.config, "is_encoder_decoder", False):
        batch |= {"decoder_input_ids": ids}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    kept = {name: value for name, value in batch.items() if name in taken or takes_all}
    return Words(kept, ids.shape[1], f"{ids.shape[1]} tokens of {about}")


def _most(checkpoint: Checkpoint) -> int:
    positions = getattr(checkpoint.config, "max_position_embeddings", MOST)
    return min(MOST, positions) if isinstance(positions, int) and positions > 0 else MOST


def _tokenizer(folder: Path) -> tuple[Any, str]:
    """The folder's own, or None and the reason."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER):
        return None, f"{folder} has no tokenizer"
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), ""
    except Exception as error:  # it may need a library that is not here
        return None, f"its tokenizer cannot be loaded ({type(error).__name__}: {error})"


def _random(checkpoint: Checkpoint) -> Tensor:
    size = checkpoint.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids: Tensor = (uniform("tokens", shape=(1, _most(checkpoint))) * size).long()
    return ids
