"""Somebody else's layer, as a candidate."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.suite import Candidate, Lifecycle, Suite
from refs.bases import base_layer
from refs.case import Case
from refs.formula import RESIDUAL, Formula
from refs.maps import Entry, parse
from refs.problem import Problem, base
from refs.subject import Subject, caller, seed
from refs.threads import threads

Factory = Callable[[nn.Module, Case], nn.Module]


@dataclass(frozen=True, eq=False)
class FactoryLayer:
    """Somebody's own layer, as a candidate."""

    factory: Factory
    map: Mapping[str, Entry]
    formula: Formula
    reset: Callable[[Any, Case], Any] | None
    input_name: str | None
    name: str = "yours"
    has_defaults: bool = False
    lifecycle: Lifecycle | None = None
    documentation: None = None
    made: WeakSet[nn.Module] = field(default_factory=WeakSet)

    @property
    def reseeds(self) -> bool:
        """Whether there is a `reset` to be seeded."""
        return self.reset is not None

    def missing(self) -> str | None:
        """Always here."""
        return None

    @functools.cache  # noqa: B019 a candidate lives as long as its measurements are made
    def refuses(self, case: Case) -> str | None:
        """What the factory's NotImplementedError says about such a case, if it raises one."""
        if case.call == "keyword" and self.input_name is None:
            return "calls by keyword need input_name"
        try:
            self._module(case, *base(case)[:2])
        except NotImplementedError as error:
            return str(error) or "the factory raises NotImplementedError"
        return None

    def build(self, case: Case, problem: Problem) -> Subject:
        """What the factory makes, in train mode."""
        module = self._module(case, problem.weight, problem.bias)
        if self.reset:
            seed(case)
            self.reset(module, case)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        call = caller(module, case, str(self.input_name))
        entries = dict(self.map)
        if RESIDUAL in entries and case.layer == "conv1d":  # it is told for a weight (d_out, d_in); Conv1D keeps the other
            entries[RESIDUAL] = replace(entries[RESIDUAL], transpose=not entries[RESIDUAL].transpose)
        return Subject(module, call, entries, tensors, self.formula.shapes(case, problem.weight))

    def save(self, subject: Subject, file: Path) -> None:
        """Its state dict."""
        save_file({key: value.detach().clone().contiguous() for key, value in subject.module.state_dict().items()}, file)

    def restore(self, case: Case, problem: Problem, file: Path) -> Subject:
        """A fresh layer that loads the state dict."""
        subject = self.build(case, problem)
        subject.module.load_state_dict(load_file(file))
        return subject

    def _module(self, case: Case, weight: Tensor, bias: Tensor | None) -> nn.Module:
        layer = base_layer(case, weight, bias).requires_grad_(False)
        seed(case)
        with threads(case.threads):
            module = self.factory(layer, case)
        if not isinstance(module, nn.Module):
            raise TypeError(f"the factory should return an nn.Module, got {type(module).__name__} for {case!r}")
        if module in self.made:
            raise TypeError("the factory returned a module that it had returned before; each call has to make a new one")
        self.made.add(module)
        return module


def candidate(
    factory: Factory | Candidate,
    suite: Suite,
    map_data: Mapping[str, Any] | None,
    reset: Callable[[Any, Case], Any] | None,
    input_name: str | None,
) -> Candidate:
    """What `certify` was given, as a candidate; ValueError for a map that does not fit the variant, TypeError for a factory that is none."""
    if not callable(factory):
        if hasattr(type(factory), "build"):
            return factory
        raise TypeError(f"factory should be a function (base layer, case) → nn.Module, got {factory!r}")
    if reset is not None and not callable(reset):
        raise TypeError(f"reset should be a function (module, case), got {reset!r}")
    if map_data is not None and not isinstance(map_data, Mapping):
        raise TypeError(f"map should be a mapping of canonical names to yours, got {map_data!r}")
    case = suite.cases[0]
    shapes = suite.formula.shapes(case, base(case)[0])
    if map_data is None or (unknown := map_data.keys() - shapes.keys()):
        raise ValueError(
            f"map should give {suite.variant}'s canonical names {', '.join(shapes)} the names in your state_dict(); "
            + ("there is none" if map_data is None else f"it has {', '.join(sorted(unknown))}")
        )
    frozen = suite.formula.begin(case, base(case)[0]).frozen if suite.formula.copied else {}
    if missing := [name for name in frozen if name not in map_data]:
        raise ValueError(
            f"map lacks {', '.join(missing)}: {suite.variant} takes it from a decomposition, which leaves signs free, so that everybody "
            f"is given the same; say what your state_dict() calls it"
        )
    return FactoryLayer(factory, parse(map_data), suite.formula, reset, input_name)
