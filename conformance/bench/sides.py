"""What is timed in a cell: lite's layer, peft's, loralib's, the bare layer, and the least that the method could take."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lite
from conformance.bench.cell import Cell
from conformance.whole.sides import reference_of
from refs.case import Case


@dataclass(frozen=True, slots=True)
class Step:
    """One forward and backward pass. known: the tensors that are there before it."""

    run: Callable[[], None]
    known: tuple[Tensor, ...]

    def __call__(self) -> None:
        """Run it."""
        self.run()


ALPHA = 12.0


def steps(cell: Cell) -> dict[str, Step]:
    """Everything that is timed, by name: forward and backward of layers, with gradients of the input and of all that trains, and their parts.

    again: the bare layer once more, which tells the noise. products, passes: what the method cannot do without, by plain calls of torch.
    layouts: the products of a pair of thin factors once more, as autograd makes them.
    """
    made = {
        "bare": bare(cell),
        "lite": lite_step(cell),
        "peft": peft_step(cell),
        "again": bare(cell),
        "products": _products(cell),
        "passes": _passes(cell),
    }
    if layouts := _layouts(cell):
        made["layouts"] = layouts
    if cell.variant == "lora" and importlib.util.find_spec("loralib"):
        made["loralib"] = _step(cell, _loralib(cell))
    return made


def bare(cell: Cell) -> Step:
    """The frozen base layer alone."""
    return _step(cell, _base(cell))


def lite_step(cell: Cell) -> Step:
    """lite's. A start from the weight is approximated: its values do not matter here."""
    config = lite.VARIANTS[cell.variant].config
    own = {"r": cell.rank, "alpha": ALPHA, "niter": 1} if cell.rank else {}
    given: dict[str, Any] = {name: value for name, value in own.items() if name in config.__dataclass_fields__}
    return _step(cell, lite.attach(_base(cell), config(**given)))


def peft_step(cell: Cell) -> Step:
    """The installed peft's, in the base's dtype as lite is."""
    import peft

    reference = reference_of(cell.variant)
    assert reference is not None
    case = Case(d_in=cell.d_in, d_out=cell.d_out, rank=cell.rank or None, alpha=ALPHA if _has_alpha(cell) else None)
    host = nn.ModuleDict({"layer": _base(cell)})
    with warnings.catch_warnings(), mock.patch("torch.linalg.svd", _leading):
        warnings.simplefilter("ignore")
        config = reference.config(target_modules=["layer"], **reference.arguments(case))
        peft.get_peft_model(host, config, autocast_adapter_dtype=False)
    layer: Any = host["layer"]
    return _step(cell, layer.to(getattr(torch, cell.dtype)))


def _leading(W: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Not the singular triplets, which take a minute: only the shapes matter here."""
    count = min(64, *W.shape)
    return W[:, :count], W.new_ones(count), W[:count]


def _has_alpha(cell: Cell) -> bool:
    return "alpha" in lite.VARIANTS[cell.variant].config.__dataclass_fields__


def _base(cell: Cell) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(cell.d_in, cell.d_out, dtype=getattr(torch, cell.dtype), device=cell.device).requires_grad_(False)


def _loralib(cell: Cell) -> nn.Module:
    import loralib

    layer: nn.Module = loralib.Linear(cell.d_in, cell.d_out, r=cell.rank, lora_alpha=ALPHA, merge_weights=False)
    loralib.mark_only_lora_as_trainable(layer)
    return layer.to(cell.device, getattr(torch, cell.dtype))


def _step(cell: Cell, layer: nn.Module) -> Step:
    x, cotangent = _data(cell)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    layer.train()

    def step() -> None:
        torch.autograd.grad(layer(x), [x, *trained], cotangent, allow_unused=True)

    return Step(step, (x, cotangent, *layer.parameters(), *layer.buffers()))


def _data(cell: Cell) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    dtype = getattr(torch, cell.dtype)
    x, cotangent = (torch.randn(cell.tokens, size).to(cell.device, dtype) for size in (cell.d_in, cell.d_out))
    return x.requires_grad_(), cotangent


def products(cell: Cell) -> list[tuple[int, int, int, str]]:
    """(m, k, n, dtype) of the method's products, forward and backward, beside those of the bare layer.

    A product with a trained factor comes back twice, by each side; one with a frozen factor once. DoRA's norm needs A Wᵀ. HRA's core
    is in float64, since float32 loses nearly parallel rows: V Vᵀ, whose gradient is one product, and solving with a triangle for
    (…, r), forward and backward, each half a product.
    """
    T, d_in, d_out, r = cell.tokens, cell.d_in, cell.d_out, cell.rank
    thin = [(T, d_in, r), (T, r, d_out)]
    back = [(T, r, d_in), (r, T, d_in), (T, d_out, r), (d_out, T, r)]
    wide: list[tuple[int, int, int]] = []
    match cell.variant:
        case "lora" | "delora":
            own = thin + back
        case "dora":
            own = [*thin, *back, (r, d_in, d_out)]
        case "lora_xs":
            own = [*thin, (T, r, r), (T, d_out, r), (T, r, r), (r, T, r), (T, r, d_in)]
        case "hra":
            own = [(T, d_in, r), (T, r, d_in), (T, d_in, r), (r, T, d_in), (T, r, d_in), (r, T, d_in)]
            wide = [(r, d_in, r), (r, r, d_in), (T, r, r), (r, T, r)]
        case _:
            own = []
    return [(*size, cell.dtype) for size in own] + [(*size, "float64") for size in wide]


def passes(cell: Cell) -> list[tuple[int, int, int]]:
    """(number, rows, columns) of the passes over tensors that are not thin, element by element, which the method needs beside its products.

    Forward and backward; everywhere the input's two gradients are added. The rows' norms are a pass over A, B or W.
    """
    T, d_in, d_out, r = cell.tokens, cell.d_in, cell.d_out, cell.rank
    match cell.variant:
        case "lora" | "lora_xs":
            return [(1, T, d_out), (1, T, d_in)]
        case "delora":  # A ∘ n and the norms, with their gradients
            return [(1, T, d_out), (1, T, d_in), (6, r, d_in), (4, d_out, r)]
        case "dora":  # gain, bias, and the gradients of both; the norms of W
            return [(7, T, d_out), (1, T, d_in), (1, d_out, d_in)]
        case "hra":  # the rows scaled and widened, with their gradients
            return [(2, T, d_in), (6, r, d_in)]
        case "ia3":
            return [(4, T, d_out)]
        case "ia3_ff":
            return [(4, T, d_in)]
        case "road":  # two products of each half with the other's gains, forward and backward
            return [(12, T, d_out)]
        case _:
            return []


def _products(cell: Cell) -> Step:
    pairs = [
        tuple(torch.randn(rows, k).to(cell.device, getattr(torch, dtype)) for rows in (m, n)) for m, k, n, dtype in products(cell)
    ]

    def step() -> None:
        with torch.no_grad():
            for left, right in pairs:
                F.linear(left, right)

    return Step(step, tuple(factor for pair in pairs for factor in pair))


def _layouts(cell: Cell) -> Step | None:
    """The products of thin factors after each other, as autograd makes them: the gradient of the last factor is (rows, T) times (T, r) with
    both sides stored along T's rows, which may take several times as long as the same product in `_products`. None for methods without such factors.
    """
    r = cell.rank
    match cell.variant:  # rows, columns, and whether it trains
        case "lora" | "delora" | "dora":
            chain = [(r, cell.d_in, True), (cell.d_out, r, True)]
        case "lora_xs":
            chain = [(r, cell.d_in, False), (r, r, True), (cell.d_out, r, False)]
        case _:
            return None
    x, cotangent = _data(cell)
    factors = [torch.randn(rows, k).to(cell.device, x.dtype).requires_grad_(trains) for rows, k, trains in chain]
    beside = [_base(cell).weight] if cell.variant == "dora" else []  # for its norms
    trained = [factor for factor in factors if factor.requires_grad]

    def step() -> None:
        for weight in beside:
            F.linear(factors[0].detach(), weight)
        torch.autograd.grad(functools.reduce(F.linear, factors, x), [x, *trained], cotangent)

    return Step(step, (x, cotangent, *factors, *beside))


def _passes(cell: Cell) -> Step:
    tensors = [(number, torch.randn(*shape).to(cell.device, getattr(torch, cell.dtype))) for number, *shape in passes(cell)]

    def step() -> None:
        with torch.no_grad():
            for number, tensor in tensors:
                for _ in range(number):
                    tensor + tensor

    return Step(step, tuple(tensor for _, tensor in tensors))
