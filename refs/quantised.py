"""Quantised bases: a tiny Llama whose linear layers bitsandbytes keeps as codes, loaded the way transformers loads them."""

import importlib.util
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from refs.models import LLAMA, MODELS, Model

LIBRARY = "bitsandbytes"
# Where it is true, and it depends on the processor, a layer packs its 4-bit codes at the first call in eval mode without gradients. From then
# on (release 0.50.2) no gradient passes through it, and `state_dict` gives its scales back in another order.
PACKS = "support_avx512bf16_for_cpu"


@dataclass(frozen=True, eq=False)
class Quantised(Model):
    """A model that is stored in full precision and loaded quantised. loading: of transformers' `BitsAndBytesConfig`."""

    loading: Mapping[str, Any] = field(default_factory=dict)

    def missing(self) -> str | None:
        """Why it cannot be loaded here."""
        if importlib.util.find_spec(LIBRARY) is None:
            return f"not installed: pip install {LIBRARY}"
        return super().missing()

    def fresh(self, dtype: torch.dtype = torch.float32, *, dropout: float = 0.0, blocks: int | None = None) -> nn.Module:
        """Loaded anew, in eval mode. dtype: what the layers compute in. It has no dropout, and always all blocks."""
        return self._loaded(Model.fresh(self, torch.float32), dtype)

    def doubled(self) -> nn.Module:
        """Another model: twice the weights, which have the same codes and other scales."""
        stored = Model.fresh(self, torch.float32)
        with torch.no_grad():
            for name, parameter in stored.named_parameters():
                parameter.mul_(2.0 if "_proj" in name else 1.0)
        return self._loaded(stored, torch.float32)

    def _loaded(self, stored: Any, dtype: torch.dtype) -> nn.Module:
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        asked = {name: dtype if value is COMPUTES else value for name, value in self.loading.items()}
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored.save_pretrained(folder)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, quantization_config=BitsAndBytesConfig(**asked), dtype=dtype, device_map="cpu", attn_implementation="eager"
            )
        loaded.config.use_cache = False
        for module in loaded.modules():
            if hasattr(module, PACKS):
                setattr(module, PACKS, False)
        model: nn.Module = loaded.eval()
        return model


COMPUTES = "the dtype that is asked for"


def installed() -> str:
    """The library and its release."""
    return f"{LIBRARY} {version(LIBRARY)}" if importlib.util.find_spec(LIBRARY) else f"no {LIBRARY}"


def _made(name: str, stands_for: str, **loading: Any) -> Quantised:
    plain = {known.name: getattr(MODELS["llama"], known.name) for known in fields(Model)}
    sizes = LLAMA | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "head_dim": 16,
        "tie_word_embeddings": False,
    }  # blocks of 64 codes
    return Quantised(**(plain | {"name": name, "stands_for": stands_for, "arguments": sizes, "dropouts": ()}), loading=loading)


QUANTISED = {
    model.name: model
    for model in (
        _made(
            "nf4", "4 bits, blocks of 64 codes with a scale each, read by a table of normal quantiles",
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=COMPUTES,
        ),
        _made("int8", "8 bits, a scale for each row; what a layer receives is quantised, too", load_in_8bit=True),
    )
}  # fmt: skip
