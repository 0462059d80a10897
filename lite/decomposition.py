"""Starts that are taken from the weight itself: its leading part, and what is left of it."""

from typing import Any

import torch
from torch import Tensor

from lite.layers import Layer


def rank_fits(config: Any, layer: Layer) -> str | None:
    """For methods that take r components out of W; there are only min(d_out, d_in)."""
    there = min(layer.d_out, layer.d_in)
    return None if config.r <= there else f"r = {config.r}, but a ({layer.d_out}, {layer.d_in}) weight has only {there} components"


def wide(tensor: Tensor) -> Tensor:
    """In the dtype that decompositions are computed in: float64 stays, all others become float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def decomposable(weight: Tensor) -> Tensor:
    """W in `wide`'s dtype; ValueError if it is not finite."""
    if not weight.isfinite().all():
        raise ValueError("the weight is not finite, so that it has no decomposition")
    return wide(weight)


def leading(weight: Tensor, r: int, niter: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest singular triples of W (d_out, d_in): U (d_out, r), S (r,), Vh (r, d_in), in `wide`'s dtype.

    niter: None for the exact decomposition, else the power iterations of a randomised one (Halko et al. 2009), which draws
    from the global generator.
    """
    if niter is None:
        U, S, Vh = torch.linalg.svd(decomposable(weight), full_matrices=False)
        return U[:, :r], S[:r], Vh[:r]
    U, S, V = torch.svd_lowrank(decomposable(weight), r, niter=niter)
    return U, S, V.mT


def without(weight: Tensor, s: float, B: Tensor, A: Tensor) -> Tensor:
    """W − s·B A in W's dtype, from the factors as they are stored: their rounding is taken back by the residual."""
    W = wide(weight)
    return (W - s * (B.to(W.dtype) @ A.to(W.dtype))).to(weight.dtype)
