"""What is timed in a cell: lite's layer, peft's, loralib's, the bare layer, and the least that the method could take."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    """Forward and backward of everything that is timed, by name; gradients of the input and of all that trains."""
    made: dict[str, Step] = {
        "bare": _step(cell, _base(cell)),
        "limit": _limit(cell),
        "lite": lite_step(cell),
        "peft": peft_step(cell),
    }
    if cell.variant == "lora" and importlib.util.find_spec("loralib"):
        made["loralib"] = _step(cell, _loralib(cell))
    return made


def lite_step(cell: Cell) -> Step:
    """lite's."""
    config = lite.VARIANTS[cell.variant].config
    own = {"r": cell.rank, "alpha": ALPHA} if cell.rank else {}
    given: dict[str, Any] = {name: value for name, value in own.items() if name in config.__dataclass_fields__}
    return _step(cell, lite.attach(_base(cell), config(**given)))


def peft_step(cell: Cell) -> Step:
    """The installed peft's, in the base's dtype as lite is."""
    import peft

    reference = reference_of(cell.variant)
    assert reference is not None
    case = Case(d_in=cell.d_in, d_out=cell.d_out, rank=cell.rank or None, alpha=ALPHA if _has_alpha(cell) else None)
    host = nn.ModuleDict({"layer": _base(cell)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = reference.config(target_modules=["layer"], **reference.arguments(case))
        peft.get_peft_model(host, config, autocast_adapter_dtype=False)
    layer: Any = host["layer"]
    return _step(cell, layer.to(getattr(torch, cell.dtype)))


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
    is in float64, since float32 loses nearly parallel rows: V Vᵀ, whose gradient is one product, and the way of (…, r) through T.
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
            wide = [(r, d_in, r), (r, r, d_in), (T, r, r), (T, r, r), (r, T, r)]
        case _:
            own = []
    return [(*size, cell.dtype) for size in own] + [(*size, "float64") for size in wide]


def _limit(cell: Cell) -> Step:
    """The bare layer's step and the method's products, by plain calls of torch."""
    bare = _step(cell, _base(cell))
    factors = [
        tuple(torch.randn(rows, k).to(cell.device, getattr(torch, dtype)) for rows in (m, n)) for m, k, n, dtype in products(cell)
    ]

    def step() -> None:
        bare()
        with torch.no_grad():
            for left, right in factors:
                F.linear(left, right)

    return Step(step, (*bare.known, *(factor for pair in factors for factor in pair)))
