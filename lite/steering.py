"""Steering: turn an attached adapter up, down or round by one coefficient, for good or for a `with` block."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import nn

from lite.adapter import Adapter
from lite.config import Config, finite
from lite.runtime import attached


class Steered(AbstractContextManager[nn.Module]):
    """What `steer` returns: as a context manager it gives the model, and puts the coefficients before back at its end."""

    def __init__(self, model: nn.Module, before: list[tuple[Adapter, Config | None]]) -> None:
        self.model, self.before = model, before

    def __enter__(self) -> nn.Module:
        return self.model

    def __exit__(self, *_: object) -> None:
        for adapter, config in self.before:
            adapter.steered = config


def steer(model: nn.Module, coeff: float) -> Steered:
    """Replace the coefficient of every attached adapter that has one, for good or, in a `with` statement, for its block.

    coeff: 1 is as trained, 0 the plain base layer bit for bit, −1 the other way, fractions in between.
    A file keeps the config's own; attaching or loading anew begins with that.

    Raises RuntimeError if nothing is attached, ValueError if no attached method has a coefficient or it is no finite number.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError("nothing is attached to this model, so there is nothing to steer; call lite.attach first")
    if problem := finite(coeff):
        raise ValueError(f"coeff {problem}, got {coeff!r}")
    steerable = [adapter for adapter in attachment.adapters if hasattr(adapter.config, "coeff")]
    if not steerable:
        names = ", ".join(sorted({adapter.variant.name for adapter in attachment.adapters}))
        raise ValueError(f"coeff = {coeff!r} steers nothing: {names} has no coefficient")
    before = [(adapter, adapter.steered) for adapter in steerable]
    for adapter in steerable:
        changed: Any = adapter.config
        adapter.steered = replace(changed, coeff=coeff)
    return Steered(model, before)
