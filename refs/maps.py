"""Maps between canonical and foreign tensors. A map is data; this module carries values in and gradients out.

Notation, per canonical name: the foreign name, or a mapping with `name` and any of
`transpose` (bool), `shape` (the foreign shape; one size may be −1 and follows from the others), `sign` (±1), `scale` (a number) and
`plus` ("identity" or a number): foreign = scale · sign · reshape(transpose(canonical)), plus the identity matrix or that number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEFAULTS: dict[str, Any] = {"transpose": False, "shape": None, "sign": 1, "scale": 1, "plus": 0}


@dataclass(frozen=True, slots=True)
class Entry:
    """How one canonical tensor is stored elsewhere."""

    name: str
    transpose: bool = False
    shape: tuple[int, ...] | None = None
    factor: float = 1.0
    plus: str | float = 0.0

    def carry_in(self, canonical: Tensor) -> Tensor:
        """Canonical value → foreign value."""
        turned = canonical.T if self.transpose else canonical
        foreign = (turned if self.shape is None else turned.reshape(self.shape)) * self.factor
        return foreign + self._addend(foreign) if self.plus else foreign

    def carry_out(self, foreign: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Foreign value → canonical value; ValueError if the foreign shape does not fit `shape`."""
        turned = self._unshape(foreign, shape)
        return (turned - self._addend(turned) if self.plus else turned) / self.factor

    def gradient_out(self, foreign: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Gradient by the foreign tensor → gradient by the canonical one: the transposed map, not the inverse."""
        return self._unshape(foreign, shape) * self.factor

    def _addend(self, like: Tensor) -> Tensor | float:
        if isinstance(self.plus, str):
            return torch.eye(len(like), dtype=like.dtype, device=like.device)
        return self.plus

    def _unshape(self, foreign: Tensor, shape: tuple[int, ...]) -> Tensor:
        turned = shape[::-1] if self.transpose else shape
        expected = turned if self.shape is None else _filled(self.shape, math.prod(shape))
        if tuple(foreign.shape) != expected or math.prod(expected) != math.prod(shape):
            raise ValueError(f"{self.name} has shape {tuple(foreign.shape)}, should be {expected} for canonical {shape}")
        flat = foreign.reshape(turned)
        return flat.T if self.transpose else flat


def _filled(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """A shape for `count` numbers, whose −1 is what the other sizes leave."""
    rest = -math.prod(shape) if -1 in shape else 0
    return tuple(count // rest if rest and size == -1 else size for size in shape)


def parse(data: Mapping[str, Any]) -> dict[str, Entry]:
    """Read a map from its data; ValueError that shows the bad entry and the notation."""
    return {canonical: _entry(canonical, spec) for canonical, spec in data.items()}


def _entry(canonical: str, spec: Any) -> Entry:
    if isinstance(spec, str):
        return Entry(spec)
    known = {"name", *DEFAULTS}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str) or not spec.keys() <= known:
        raise ValueError(
            f"map entry {canonical}: {spec!r} should be a name, or a mapping with name and any of {', '.join(DEFAULTS)}"
        )
    transpose, shape, sign, scale, plus = (spec.get(key, default) for key, default in DEFAULTS.items())
    if not isinstance(transpose, bool):
        raise ValueError(f"map entry {canonical}: transpose should be True or False, got {transpose!r}")
    if shape is not None and not (isinstance(shape, tuple | list) and all(type(size) is int for size in shape)):
        raise ValueError(f"map entry {canonical}: shape should be a sequence of integers, got {shape!r}")
    if shape is not None and list(shape).count(-1) > 1:
        raise ValueError(f"map entry {canonical}: at most one size of a shape can follow from the others, got {shape!r}")
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in (sign, scale)):
        raise ValueError(f"map entry {canonical}: sign and scale should be finite numbers, got {sign!r} and {scale!r}")
    if not (plus == "identity" and shape is None) and not (type(plus) in (int, float) and math.isfinite(plus)):
        raise ValueError(
            f"map entry {canonical}: plus should be a number, or 'identity' for a square matrix that keeps its shape, got {plus!r}"
        )
    if sign * scale == 0:
        raise ValueError(f"map entry {canonical}: {spec!r} multiplies by zero")
    if abs(sign) != 1:
        raise ValueError(f"map entry {canonical}: sign should be 1 or -1, got {sign!r}; other factors are a scale")
    return Entry(spec["name"], transpose, None if shape is None else tuple(shape), float(sign * scale), plus)
