"""AntiPaSTO's layer, whose rotations are of all r components: here of blocks of them, with zeros elsewhere in its parameters.

It computes what is left of the weight once, from its own decomposition in float32; for other factors it has a loader, which is used where
a case gives some.
"""

from typing import Any

import peft  # noqa: F401  # looks for bitsandbytes before there is a stand-in
import torch
from torch import Tensor, nn
from torch.func import functional_call

from refs import antipasto_rot
from refs.authors.built import Built, has_no
from refs.authors.code import Code, stand_in
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed

NAME, PLACE = "default", "layer"
FACTORS = ("u", "s", "v")
SIDES = {"V": ("v",), "U": ("u",), "both": ("v", "u"), "none": ()}
KNOWN = ("coeff", "block_size", "max_rotation_angle", "rotate_basis")


def refuses(case: Case) -> str | None:
    """Options, base layers and data that it does not take."""
    if case.layer != "linear":
        return "the author adapts nn.Linear only"
    if case.adapter_dtype:
        return "the author's adapter has one dtype"
    if case.data:
        return "the author chooses components beforehand, by pairs of prompts"
    return has_no(case, "the author has", known=KNOWN)


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """With the author's defaults where the case says nothing at all."""
    author, base = _adapter(code), base_layer(case, numbers.weight, numbers.bias)
    config = author.AntiPaSTOConfig(**_told(case))
    words = ("alpha", "r", "rotate_u", "rotate_v", "rotation_method", "max_rotation_angle")
    told = {name: getattr(config, name) for name in words} | {"layer_name": PLACE}
    seed(case)
    layer = author.AntiPaSTOLinear(base, NAME, **told).to(case.torch_dtype)
    base.requires_grad_(False)  # as peft does
    turned = _turned(case, layer)
    own = {name: value for name, value in (*layer.named_parameters(), *layer.named_buffers()) if "rotation_params" not in name}
    start = {name: _factor(layer, name).clone() for name in FACTORS}

    def call(x: Tensor) -> Tensor:
        if any(not _factor(layer, name).equal(value) for name, value in start.items()):
            bases = {f"svd_bases.{PLACE}.{name}": _factor(layer, name) for name in FACTORS}
            other = author.AntiPaSTOLinear(base, NAME, svd_bases=bases, **told)
            layer.antipasto_w_res[NAME] = other.antipasto_w_res[NAME].to(case.torch_dtype)
        spread = {f"antipasto_rotation_params_{side}.{NAME}": _spread(case, pairs) for side, pairs in turned.items()}
        output: Tensor = functional_call(layer, spread, (x,))
        return output

    names = dict(zip(SIDES[antipasto_rot.turns(case)], ("turned", "turned U"), strict=False))
    return Built(layer, own | {names[side]: pairs for side, pairs in turned.items()}, call)


def _adapter(code: Code) -> Any:
    """Its module, with what it only imports for quantised weights, for messages and for annotations."""
    kinds = {"Params4bit": type("Params4bit", (), {}), "Int8Params": type("Int8Params", (), {})}
    stand_in("bitsandbytes.nn", **kinds)
    stand_in("loguru", logger=_Silent())
    stand_in("einops", repeat=None, rearrange=None, reduce=None)
    stand_in("jaxtyping", Float=dict)
    return code.module("antipasto/peft_utils/antipasto_adapter.py")


class _Silent:
    """A logger."""

    def debug(self, message: str) -> None:
        """Nothing."""


def _told(case: Case) -> dict[str, Any]:
    if case.rank is None:
        return {}
    sides = SIDES[antipasto_rot.turns(case)]
    angle = case.option("max_rotation_angle", antipasto_rot.ANGLE)
    return {
        "r": case.rank,
        "alpha": case.option("coeff", 1.0),
        "rotate_v": "v" in sides,
        "rotate_u": "u" in sides,
        "max_rotation_angle": angle,
    }


def _factor(layer: Any, name: str) -> Tensor:
    """u (d_out, r), s (r,) or v (d_in, r)."""
    factor: Tensor = getattr(layer, f"antipasto_{name}")[NAME]
    return factor


def _turned(case: Case, layer: Any) -> dict[str, nn.Parameter]:
    """P_ij − P_ji (blocks, pairs) of each side that turns, at the author's start."""
    found = {}
    for side in SIDES[antipasto_rot.turns(case)]:
        P = getattr(layer, f"antipasto_rotation_params_{side}")[NAME].detach()
        found[side] = nn.Parameter((P - P.T)[_places(case, len(P))])
    return found


def _spread(case: Case, pairs: Tensor) -> Tensor:
    """P (r, r) with these differences above the diagonal, zero below and outside of the blocks."""
    r = len(pairs) * antipasto_rot.block(case)
    return pairs.new_zeros(r, r).index_put(_places(case, r), pairs)


def _places(case: Case, r: int) -> tuple[Tensor, Tensor]:
    """Rows and columns (blocks, pairs) in P."""
    size = antipasto_rot.block(case)
    first = torch.arange(0, r, size)[:, None]
    i, j = torch.triu_indices(size, size, offset=1)
    return first + i, first + j
