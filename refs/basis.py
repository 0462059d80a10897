"""Formulas in a weight's singular basis W = U S Vᵀ: r of its components frozen, an operator between them trained.

W′ = W + U_r (K − diag S_r) V_rᵀ, where K = K(parameters) is the core, diag S_r where nothing is changed.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from refs.calibration import Calls
from refs.case import Case
from refs.formula import Formula, Promise, Tensors

DEFAULT_RANK = 16
MOST = 4.0  # a gain of e⁻⁴ moves its component as far as a gain can, and still has a gradient
FAR = 3.0  # e⁻³ beside 1 − 3
Core = Callable[[Case, Mapping[str, Tensor]], Tensor]


def rank(case: Case) -> int:
    """r of a case, or its default."""
    return case.rank or DEFAULT_RANK


def coeff(case: Case) -> float:
    """The steering coefficient."""
    return float(case.option("coeff", 1.0))


def chosen(case: Case, weight: Tensor, data: Calls, *, pool: str = "rms") -> Tensors:
    """The r largest components, or those with the largest singular value times pooled size of the input along them. pool: the default."""
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = torch.arange(rank(case))
    if tokens := data["layer"]:
        along = torch.cat(tokens) @ Vh.T
        pooled = along.pow(2).mean(dim=0).sqrt() if case.option("act_pool", pool) == "rms" else along.abs().mean(dim=0)
        kept = torch.topk(S * pooled, rank(case)).indices.sort().values
    return {"lora_U": U[:, kept], "lora_S": S[kept], "lora_Vh": Vh[kept]}


def gain(case: Case, g: Tensor) -> Tensor:
    """eᶻ for z ≤ 0, 1 + z above; the gradient is 1 at the kinks from both sides."""
    if case.option("suppress_only", False):
        g = torch.where(g > 0, torch.zeros_like(g), g)
    z = coeff(case) * g
    return torch.where(z > 0, 1 + z, torch.exp(z.clamp(max=0)))


def around(core: Core, case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """W′ and b′ of a core (r, r)."""
    right = p["lora_P" if "lora_P" in p else "lora_Vh"]
    return weight + p["lora_U"] @ (core(case, p) - torch.diag(p["lora_S"])) @ right, bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Every trainable away from its start, gains down and up in turn, but not so far that one vanishes."""
    away = dict(noise)
    if "lora_g" in away:
        away["lora_g"] = away["lora_g"].abs() * (2.0 * (torch.arange(len(away["lora_g"])) % 2) - 1)
    return {name: value + min(strength, MOST) * away[name] for name, value in start.items()}


def kink(case: Case, perturbed: Tensors) -> Tensors:
    """Every other gain at one, where its two branches meet: of those that `moved` turned down and up, the latter."""
    moves = torch.arange(len(perturbed["lora_g"])) % 2 == 0
    return perturbed | {"lora_g": torch.where(moves, perturbed["lora_g"], 0.0)}


def _bounded(cores: Sequence[Tensor], tensors: Tensors) -> tuple[float, float]:
    """How far a gain is below 0, or above the larger of 1 and 1 + |g|."""
    most = 1 + tensors["lora_g"].abs()
    gains = torch.stack([core.diagonal()[-len(most) :] / tensors["lora_S"][-len(most) :] for core in cores])
    return float(torch.maximum(-gains, gains - most).max().clamp(min=0)), float(tensors["lora_S"].max() / tensors["lora_S"].min())


def _far(parameters: Tensors) -> Tensors:
    """Gains so far from one that a factor 1 + z would be below zero."""
    g = parameters["lora_g"]
    return parameters | {"lora_g": FAR * g / g.abs().max()}


GAINS = Promise(what="gains are positive, and at most 1 + |g|", coefficients=(-1.0, -0.25, 0.0, 0.5, 1.0), at=_far, broken=_bounded)


def formula(core: Core, **more: Any) -> Formula:
    """A formula of this kind; `more` as `Formula` takes it."""
    common: dict[str, Any] = {
        "frozen_from": chosen,
        "copied": True,
        "gauge": {"lora_U": (1,), "lora_Vh": (0,)},
        "right": "lora_Vh",
        "adapted": functools.partial(around, core),
        "moved": moved,
        "steered": True,
    }
    return Formula(**(common | more))
