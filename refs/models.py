"""Whole models: tiny ones of five architectures with random weights, and the pretrained MiniLM; each with real text and a loss."""

import copy
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from refs import minilm
from refs.numbers import normal

VOCABULARY = 128
IGNORED = -100  # the label of a token that is not predicted


@dataclass(frozen=True, eq=False)
class Model:
    """One architecture. All widths differ where it lets them.

    stands_for: what a layer meets in it that it does not meet alone.
    config: transformers' config and model class, by name, and the config's arguments; "" for the pretrained model.
    dropouts: the config's names of its dropout probabilities.
    output, input: of a linear layer's name, what ends it: attention's projections and the feed-forward ones that read the residual
        stream, the key and value projections (IA3's, whose output is scaled), the last feed-forward projection (whose input is).
    """

    name: str
    stands_for: str
    classes: tuple[str, str]
    arguments: Mapping[str, Any]
    dropouts: tuple[str, ...]
    layers: tuple[str, ...]
    keys_values: tuple[str, ...]
    feed_forward: tuple[str, ...]
    wide: tuple[str, ...] = ()  # of `layers`, those with more than 1,000 inputs
    labelled: bool = True  # whether the model computes a loss from labels
    blocks: int | None = None  # fewer of them than it has

    def missing(self) -> str | None:
        """Why it cannot be built here: there is text in MiniLM's package only."""
        return minilm.missing()

    def fresh(self, dtype: torch.dtype = torch.float64, *, dropout: float = 0.0, blocks: int | None = None) -> nn.Module:
        """A copy of the base in eval mode, its weights what float32 can hold, gradients on as in any model that is loaded.

        dropout: of the model's own, in train mode. blocks: fewer of them, for what only has to be there.
        """
        return copy.deepcopy(_built(self, dropout, blocks or self.blocks)).to(dtype)

    def batch(self, sentences: tuple[str, ...] = minilm.SENTENCES) -> dict[str, Tensor]:
        """A padded batch with its mask; labels where the model takes them, none on padding."""
        return _tokens(self, sentences)

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss, and logits or the last hidden state (sentences, tokens, …); without the model's own loss the mean square of
        the distance to random numbers, over the tokens that count.
        """
        returned = model(**batch)
        if self.labelled:
            return {"loss": returned.loss, "logits": returned.logits}
        hidden = returned.last_hidden_state
        wanted = normal("wanted", self.name, shape=tuple(hidden.shape)).to(hidden.dtype)
        counted = batch["attention_mask"][..., None].to(hidden.dtype)
        loss = ((hidden - wanted).square() * counted).sum() / (counted.sum() * hidden.shape[-1])
        return {"loss": loss, "last hidden state": hidden}

    def named(self, model: nn.Module, ends: tuple[str, ...]) -> list[str]:
        """The modules whose name ends so, as peft and users select them."""
        pattern = re.compile(rf"(^|\.)({'|'.join(map(re.escape, ends))})$")
        return [name for name, _ in model.named_modules() if pattern.search(name)]


LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64,
}  # fmt: skip
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BERT_LAYERS = ("query", "key", "value", "intermediate.dense", "output.dense")

MODELS = {
    model.name: model
    for model in (
        Model(
            "llama",
            "one tensor read by three projections and two gates, fewer key and value heads than queries, no biases",
            ("LlamaConfig", "LlamaForCausalLM"),
            LLAMA | {"tie_word_embeddings": False},
            ("attention_dropout",),
            PROJECTIONS,
            ("k_proj", "v_proj"),
            ("down_proj",),
        ),
        Model(
            "qwen3",
            "norms between projection and attention, biases of attention, output tied to the embedding",
            ("Qwen3Config", "Qwen3ForCausalLM"),
            LLAMA | {"tie_word_embeddings": True, "attention_bias": True},
            ("attention_dropout",),
            PROJECTIONS,
            ("k_proj", "v_proj"),
            ("down_proj",),
        ),
        Model(
            "gpt2",
            "Conv1D, whose weight is stored transposed, query, key and value in one projection, output tied to the embedding",
            ("GPT2Config", "GPT2LMHeadModel"),
            {
                "vocab_size": VOCABULARY, "n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 3, "n_positions": 64, "bos_token_id": 101, "eos_token_id": 102,
            },
            ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
            ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
            ("c_attn",),
            ("mlp.c_proj",),
        ),
        Model(
            "t5",
            "an encoder whose output every block of the decoder reads, embeddings shared by encoder, decoder and output, no biases",
            ("T5Config", "T5ForConditionalGeneration"),
            {
                "vocab_size": VOCABULARY, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2,
                "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0, "feed_forward_proj": "relu",
                "relative_attention_num_buckets": 8, "tie_word_embeddings": True,
            },
            ("dropout_rate",),
            ("q", "k", "v", "o", "wi", "wo"),
            ("k", "v"),
            ("wo",),
        ),
        Model(
            "bert",
            "an encoder with biases and norms after the sum, whose pooler the loss never reaches",
            ("BertConfig", "BertModel"),
            {
                "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
                "max_position_embeddings": 64,
            },
            ("hidden_dropout_prob", "attention_probs_dropout_prob"),
            BERT_LAYERS,
            ("key", "value"),
            ("output.dense",),
            labelled=False,
        ),
        Model(
            "minilm",
            "trained weights on real text, six blocks",
            ("", ""),
            {},
            ("hidden_dropout_prob", "attention_probs_dropout_prob"),
            BERT_LAYERS,
            ("key", "value"),
            ("output.dense",),
            wide=("output.dense",),
            labelled=False,
        ),
    )
}  # fmt: skip

# For what looks at layers, and would only take longer in six blocks.
SHORT = {name: model if model.arguments else replace(model, blocks=1) for name, model in MODELS.items()}


@functools.lru_cache(maxsize=32)
def _built(model: Model, dropout: float, blocks: int | None) -> nn.Module:
    if not model.arguments:
        return _pretrained(dropout, blocks)
    import transformers

    config_class, model_class = (getattr(transformers, name) for name in model.classes)
    more: dict[str, Any] = dict.fromkeys(model.dropouts, dropout)
    if blocks:
        more |= {
            name: blocks for name in ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers") if name in model.arguments
        }
    config = config_class(**model.arguments, **more) if not blocks else config_class(**(dict(model.arguments) | more))
    config._attn_implementation, config.use_cache = "eager", False  # a cache would change with checkpointing
    with torch.random.fork_rng(devices=[]):
        built: nn.Module = model_class(config)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(_numbers(model.name, name, tuple(parameter.shape)))
    return built.eval()


def _numbers(model: str, name: str, shape: tuple[int, ...]) -> Any:
    """Of order one after each layer: matrices by the root of their width, norms about one, biases small."""
    noise = normal("whole", model, name, shape=shape)
    if len(shape) > 1:
        if "embed" in name or name.endswith(("wte.weight", "wpe.weight", "shared.weight")):
            return noise / 2
        quiet = (
            4.0 if name.endswith(("Attention.q.weight", "Attention.k.weight")) else 1.0
        )  # T5 does not divide scores by the root of a width
        return noise / (quiet * shape[-1]) ** 0.5
    return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)


def _pretrained(dropout: float, blocks: int | None) -> nn.Module:
    built = copy.deepcopy(minilm.model())
    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    if blocks:
        encoder: Any = built.get_submodule("encoder")
        encoder.layer = encoder.layer[:blocks]
    return built


@functools.cache
def _tokens(model: Model, sentences: tuple[str, ...]) -> dict[str, Tensor]:
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(minilm.folder(), local_files_only=True)(list(sentences), padding=True, return_tensors="pt")
    ids, mask = read["input_ids"], read["attention_mask"]
    if model.arguments:
        ids = ids % VOCABULARY
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.labelled:
        labels = ids.masked_fill(mask == 0, IGNORED)
        batch["labels"] = labels.flip(0) if model.classes[0].startswith("T5") else labels  # a decoder reads another sentence
    return batch
