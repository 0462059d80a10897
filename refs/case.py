"""A case: everything that decides a run."""

import ast
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Frozen, printable, rebuilt from its own `repr`. Numbers follow from it alone (`refs.problem`).

    d_in, d_out, rank, alpha: of the layer and its adapter; rank and alpha None = the implementation's default, or no such option.
    bias, layer: the base layer; "linear", "conv1d" (weight stored transposed), "other" (linear-like, no `nn.Linear`).
    call: how the layer is called, "positional" or "keyword".
    batch: leading shape of x (…, d_in).
    dtype, adapter_dtype: of the base and, if it differs, of the adapter.
    weight: kind of base weight and input: "random", "decay" (singular values apart), "cliff" (the same, and next to nothing after the rank-th),
        "gap" (after the rank-th), "flat", "deficient",
        "minilm:MODULE" (pretrained, real tokens), "recorded:NAME" (the numbers of a recording), or "given:NAME" (a layer that somebody brought).
    scales: what the base weight, the bias and the input (and the data) are multiplied by.
    data: what a start from data is taken from: "" (the method uses none), or a kind of `refs.calibration`.
    options: the variant's own options as (name, value) pairs, named as in lite's config.
    threads: of torch. A candidate on several is compared with references on one, and on as many.
    mode: "eval" or "train". state: "init", "perturbed", "own" (perturbed, beside the implementation's own frozen tensors), or one of the variant's states.
    """

    d_in: int
    d_out: int
    rank: int | None = None
    alpha: float | None = None
    bias: bool = True
    layer: str = "linear"
    call: str = "positional"
    batch: tuple[int, ...] = (5,)
    dtype: str = "float64"
    adapter_dtype: str | None = None
    device: str = "cpu"
    threads: int = 1
    weight: str = "random"
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    data: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    mode: str = "train"
    state: str = "perturbed"
    seed: int = 0

    def but(self, **changes: Any) -> "Case":
        """The same case with some fields changed; `options` are merged into those there are."""
        if "options" in changes:
            changes["options"] = tuple((dict(self.options) | dict(changes["options"])).items())
        # As `dataclasses.replace`, in half its time: checks make thousands.
        return Case(**{name: getattr(self, name) for name in self.__slots__} | changes)

    def without(self, option: str) -> "Case":
        """The same case without one of its options."""
        return dataclasses.replace(self, options=tuple((name, value) for name, value in self.options if name != option))

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def parse(cls, text: str) -> "Case":
        """Rebuild a case from its `repr`; ValueError for anything else. Runs nothing."""
        try:
            call = ast.parse(text, mode="eval").body
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Case" or call.args:
                raise ValueError("not a call of Case with keywords")
            values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            if len(values) < len(call.keywords):
                raise ValueError("a field is given twice")
            return cls(**values)
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no case: {error}") from error

    @property
    @functools.lru_cache(maxsize=4096)  # noqa: B019  # asked of few cases, often; equal cases have the same numbers, but not the same text
    def numbers(self) -> "Case":
        """The case that has the same numbers: these do not depend on how it is run."""
        options = tuple((name, value) for name, value in self.options if name != "dropout")
        return dataclasses.replace(
            self, options=options, mode="train", layer="linear", call="positional", adapter_dtype=None, threads=1
        )

    @property
    def is_given(self) -> bool:
        """Whether its weight and input are pretrained or recorded, not generated."""
        return self.weight.startswith(("minilm:", "recorded:", "given:"))

    def option(self, name: str, default: Any) -> Any:
        """The value of one of the variant's own options."""
        return dict(self.options).get(name, default)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The base dtype as torch's own."""
        return as_dtype(self.dtype)

    @property
    def id(self) -> str:
        """Short and unique among a suite's cases; what `--case` takes."""
        parts = [
            f"{self.d_in}x{self.d_out}" if not self.weight.startswith("minilm") else self.weight.replace("minilm:", "minilm."),
            f"r{self.rank}" if self.rank else "",
            f"alpha{_short(self.alpha)}" if self.alpha else "",
            "" if self.bias else "nobias",
            "" if self.layer == "linear" else self.layer,
            "" if self.call == "positional" else self.call,
            "x".join(map(str, self.batch)),
            self.weight.replace(":", ".").replace("/", ".") if not self.weight.startswith("minilm") else "",
            "" if self.scales == (1, 1, 1) else "scales" + "x".join(map(_short, self.scales)),
            self.data,
            *(f"{name}={value}" for name, value in self.options),
            self.mode,
            self.state,
            self.dtype + (f"+{self.adapter_dtype}" if self.adapter_dtype else ""),
            f"seed{self.seed}" if self.seed else "",
            "" if self.device == "cpu" else self.device,
            "" if self.threads == 1 else f"threads{self.threads}",
        ]
        return "-".join(part for part in parts if part)


def _short(number: float) -> str:
    return str(number).removesuffix(".0")


def as_dtype(name: str) -> torch.dtype:
    """The torch dtype of that name; ValueError for anything else."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no torch dtype")
    return dtype
