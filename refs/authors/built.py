"""What a driver makes of an author's code for a case."""

import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from torch import Tensor, nn

from refs.authors.code import Code
from refs.authors.manifest import Manifest
from refs.case import Case
from refs.problem import Problem


@dataclass(frozen=True, slots=True)
class Built:
    """A layer at its own init, seeded with `case.seed` immediately before it.

    module: what is put into train or eval mode. tensors: by the names of the manifest's map. call: x (…, d_in) → output; None: the module.
    factors: canonical name → what the case multiplies the map's scale by, where the author has no scale of his own.
    """

    module: nn.Module
    tensors: Mapping[str, Tensor]
    call: Callable[[Tensor], Tensor] | None = None
    factors: Mapping[str, float] = field(default_factory=dict)


class Driver(Protocol):
    """The module beside a manifest. Only `build` touches the author's code, and only in a process of its own."""

    def refuses(self, case: Case) -> str | None:
        """Why the layer cannot be built for the case, or None."""

    def build(self, code: Code, case: Case, numbers: Problem) -> Built:
        """The layer for the case, with its base weight and bias."""


def has_no(case: Case, who: str, known: Collection[str] = ()) -> str | None:
    """What of a case's options an author's code does not know, in words, or None. who: that code, with its verb."""
    absent = [f"{name}={value!r}" for name, value in case.options if name not in known]
    return f"{who} no {', '.join(absent)}" if absent else None


def driver_of(manifest: Manifest) -> Driver:
    """A manifest's driver; FileNotFoundError if there is none."""
    spec = importlib.util.spec_from_file_location(f"refs.authors.layers.{manifest.name}", manifest.driver)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("Driver", module)
