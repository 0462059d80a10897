"""Data for methods that start from data: batches for a model of two layers, and what each layer receives of them."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refs import given, minilm
from refs.bases import base_layer
from refs.case import Case
from refs.numbers import normal, spectrum, uniform

KINDS = ("one", "several", "padded")
GARBAGE = 1e3  # what stands in padded positions
Calls = dict[str, list[Tensor]]  # layer → the tokens (n, d_in) of each of its calls


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs (sequences, tokens, d) of the two layers, and which tokens count (sequences, tokens), None for all."""

    layer: Tensor
    beside: Tensor
    attention: Tensor | None = None
    labels: Tensor | None = None


class Pair(nn.Module):
    """The case's layer, and another one beside it that a budget of ranks is shared with."""

    def __init__(self, layer: nn.Module, beside: nn.Module) -> None:
        super().__init__()
        self.layer, self.beside = layer, beside

    def forward(self, x: Tensor, z: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (…, d_in) through the layer, z through the one beside it."""
        return self.layer(x), self.beside(z)


def pair(case: Case, weight: Tensor, bias: Tensor | None) -> Pair:
    """A model for the case's batches."""
    d_in = beside_width(case)
    small = case.but(d_in=d_in, d_out=d_in, bias=True, weight="random")
    beside = base_layer(small, normal("beside", shape=(d_in, d_in)), torch.zeros(d_in))
    return Pair(base_layer(case, weight, bias), beside)


def beside_width(case: Case) -> int:
    """d_in and d_out of the layer beside."""
    return 2 * (case.rank or 8) + 3


def batches(case: Case) -> tuple[Batch, ...]:
    """The data of a case, float64 of values that its dtype (at most float32) can hold; ValueError for an unknown kind.

    "one": one sequence. "several": three, of different sizes. "padded": two batches of three sequences, padded with garbage.
    The largest entry in size is negative: a signed maximum is not that of sizes.
    """
    if case.data not in KINDS:
        raise ValueError(f"unknown kind of data {case.data!r}; known: {', '.join(KINDS)}")
    return _cached(case.numbers.but(state="init", alpha=None, bias=True, batch=(), scales=(1.0, 1.0, case.scales[2])))


@functools.lru_cache(maxsize=128)
def _cached(case: Case) -> tuple[Batch, ...]:
    coarse = case.but(dtype="float32") if case.dtype == "float64" else case
    return tuple(_rounded(batch, coarse) for batch in _batches(case))


def forget_batches() -> None:
    """Drop all data that was made."""
    _cached.cache_clear()


def _batches(case: Case) -> list[Batch]:
    tokens = 4 * (case.rank or 8) + 9
    if case.data == "one":
        return [Batch(_inputs(case, 0, 1, tokens), _beside(case, 0, 1, tokens))]
    if case.data == "several":
        return [Batch(size * _inputs(case, n, 1, tokens), _beside(case, n, 1, tokens)) for n, size in enumerate((1.0, 3.0, 0.5))]
    made = []
    for n in range(2):
        lengths = torch.tensor([tokens, tokens // 2, tokens // 3])
        attention = torch.arange(tokens) < lengths[:, None]
        labels = torch.arange(tokens) >= 2 + n  # the prompt is not trained on
        keep = attention[..., None]
        x = _inputs(case, n, 3, tokens)
        layer = torch.where(keep, _signed(x, x[attention]), GARBAGE * normal(case.seed, "garbage", n, shape=(3, tokens, case.d_in)))
        made.append(Batch(layer, _beside(case, n, 3, tokens), attention, labels.expand(3, tokens)))
    return made


def _inputs(case: Case, number: int, sequences: int, tokens: int) -> Tensor:
    """With a mean, strong directions of different strength (twice the rank, for ranks are shared out), and weak ones."""
    brought = given.of(case)
    if brought or case.weight.startswith("minilm:"):
        seen = brought.x if brought else minilm.activations(case.weight.removeprefix("minilm:"))
        real = seen.double().reshape(-1, case.d_in)
        start = number * 7
        return real.roll(start, dims=0)[: sequences * min(tokens, len(real) // sequences)].reshape(sequences, -1, case.d_in)
    strong = min(2 * (case.rank or 8), case.d_in - 1)
    values = torch.cat([6 * 6.0 ** -(torch.arange(strong) / strong), torch.linspace(0.3, 0.1, case.d_in - strong)]).double()
    mixing = spectrum(case.seed, "mixing", d_out=case.d_in, d_in=case.d_in, values=values)
    x = normal(case.seed, "calibration", number, shape=(sequences, tokens, case.d_in)) @ mixing
    x = x + 2 * uniform(case.seed, "mean", shape=(case.d_in,))
    return _signed(x, x)


def _signed(x: Tensor, counted: Tensor) -> Tensor:
    """With the sign that makes the largest entry of what counts negative."""
    return -x if counted.max() > -counted.min() else x


def _beside(case: Case, number: int, sequences: int, tokens: int) -> Tensor:
    """Nearly all of its variance is in one direction, so that it gets a small share of the ranks."""
    width = beside_width(case)
    x = normal(case.seed, "beside", number, shape=(sequences, tokens, width)) / 64
    x[..., 0] *= 640
    return x


def _rounded(batch: Batch, case: Case) -> Batch:
    def to(tensor: Tensor) -> Tensor:
        return tensor.to(case.torch_dtype).double()

    return Batch(to(case.scales[2] * batch.layer), to(batch.beside), batch.attention, batch.labels)


def model_inputs(case: Case, data: tuple[Batch, ...]) -> list[dict[str, Any]]:
    """The batches as a `Pair` takes them, in the case's dtype, with their masks."""
    made = []
    for batch in data:
        inputs: dict[str, Any] = {"x": batch.layer.to(case.torch_dtype), "z": batch.beside.to(case.torch_dtype)}
        if batch.attention is not None and batch.labels is not None:
            inputs |= {"attention_mask": batch.attention.long(), "label_mask": batch.labels.long()}
        made.append(inputs)
    return made


def calls(data: tuple[Batch, ...], *, labels: bool) -> Calls:
    """The tokens that count, for each call of each layer. labels: whether the label mask counts, too."""
    made: Calls = {"layer": [], "beside": []}
    for batch in data:
        for name, x in (("layer", batch.layer), ("beside", batch.beside)):
            keep = torch.ones(x.shape[:2], dtype=torch.bool) if batch.attention is None else batch.attention
            if labels and batch.labels is not None:
                keep = keep & batch.labels
            made[name].append(x[keep])
    return made
