"""A cell of the table of times: one method on one size of layer, in one dtype, on so many threads."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import torch

import lite

SHAPES = ((512, 512), (1024, 1024), (2048, 2048), (1024, 4096), (4096, 4096))  # d_in, d_out
TOKENS, RANKS, DTYPES, THREADS = (64, 512), (8, 64), ("float32", "bfloat16"), (1, 2)
# Methods with a forward of their own that peft has, too. PiSSA, OLoRA, EVA, CorDA and ASVD run LoRA's.
VARIANTS = ("lora", "dora", "delora", "hra", "lora_xs", "ia3", "ia3_ff", "road")
LARGE = 4096 * 4096  # only for methods whose peft layer finishes a step in a second


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """rank 0: the method has none."""

    variant: str
    d_in: int
    d_out: int
    tokens: int
    rank: int
    dtype: str
    threads: int
    device: str = "cpu"

    @property
    def id(self) -> str:
        """A file's name."""
        rank = f"-r{self.rank}" if self.rank else ""
        where = self.threads if self.device == "cpu" else self.device
        return f"{self.variant}-{self.d_in}x{self.d_out}-t{self.tokens}{rank}-{self.dtype}-{where}"

    @property
    def is_large(self) -> bool:
        """Whether it is left out where peft takes too long."""
        return self.d_in * self.d_out >= LARGE

    def is_within(self, other: "Cell") -> bool:
        """Whether it is another one that is in nothing larger, and the same in everything that has no size."""
        sizes, kinds = attrgetter("d_in", "d_out", "tokens", "rank"), attrgetter("variant", "dtype", "threads", "device")
        no_larger = all(own <= theirs for own, theirs in zip(sizes(self), sizes(other), strict=True))
        return self != other and no_larger and kinds(self) == kinds(other)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def cells(variants: Sequence[str] = VARIANTS) -> Iterator[Cell]:
    """All of some methods: on the CPU with each number of threads, and on the GPU where there is one."""
    places = [(threads, "cpu") for threads in THREADS] + [(1, "cuda")] * torch.cuda.is_available()
    for variant in variants:
        ranks = RANKS if "r" in lite.VARIANTS[variant].config.__dataclass_fields__ else (0,)
        for shape, tokens, rank, dtype, place in itertools.product(SHAPES, TOKENS, ranks, DTYPES, places):
            yield Cell(variant, *shape, tokens, rank, dtype, *place)
