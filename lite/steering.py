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

    def __init__(self, model: nn.Module, steered: list[tuple[Adapter, Config | None]]) -> None:
        self.model, self.steered = model, steered
        self._set()

    def _set(self) -> None:
        self.before = [(adapter, adapter.steered) for adapter, _ in self.steered]
        for adapter, config in self.steered:
            adapter.steered = config

    def __enter__(self) -> nn.Module:
        if any(adapter.steered is not config for adapter, config in self.steered):  # kept, and others steered since
            self._set()
        return self.model

    def __exit__(self, *_: object) -> None:
        for adapter, config in self.before:
            adapter.steered = config


def steer(model: nn.Module, coeff: float | None) -> Steered:
    """Replace the coefficient of every attached adapter that has one, for good or, in a `with` statement, for its block.

    coeff: 0 is the plain base layer bit for bit (as long as the adapter itself does not overflow), −1 the other way of 1, fractions lie
        in between; None goes back to each config's own. A file keeps the config's; loading into an attached model leaves it steered.

    A forward pass that is run again in the backward pass (activation checkpointing) reads the coefficient of that moment: call backward
    inside the block. Raises RuntimeError if nothing is attached, ValueError if no attached method has a coefficient or it is no finite number.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError("nothing is attached to this model, so there is nothing to steer; call lite.attach first")
    if coeff is not None and (problem := finite(coeff)):
        raise ValueError(f"coeff {problem}, or None, got {coeff!r}")
    steerable: list[tuple[Adapter, Any]] = [(a, a.config) for a in attachment.adapters if hasattr(a.config, "coeff")]
    if not steerable:
        names = ", ".join(sorted({adapter.variant.name for adapter in attachment.adapters}))
        raise ValueError(f"coeff = {coeff!r} steers nothing: {names} has no coefficient")
    return Steered(model, [(a, None if coeff is None else replace(config, coeff=float(coeff))) for a, config in steerable])
