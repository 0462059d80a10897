"""Lite's layers as candidates, built through the public `lite.attach`."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import lite
from conformance.documentation import Documentation, parse
from conformance.suite import Lifecycle
from lite.layers import Layer, targets
from lite.runtime import plan
from refs.bases import INPUT_NAMES, base_layer, weight_entry
from refs.calibration import model_inputs, pair
from refs.case import Case, as_dtype
from refs.formula import RESIDUAL, Formula
from refs.maps import Entry
from refs.problem import Problem
from refs.source import location
from refs.subject import Subject, caller, seed


@dataclass(frozen=True, eq=False)
class LiteLayer:
    """One variant of lite on single layers. small: options that make it fit small models, where its defaults do not."""

    variant: str
    formula: Formula
    small: Mapping[str, Any] = field(default_factory=dict)
    name: str = "lite"
    has_defaults: bool = True
    reseeds: bool = True

    def missing(self) -> str | None:
        """Always here."""
        return None

    def refuses(self, case: Case) -> str | None:
        """Lite takes every case."""
        return None

    def build(self, case: Case, problem: Problem) -> Subject:
        """Attach to a fresh base layer, seeded immediately before."""
        host = _host(case, problem)
        seed(case)
        lite.attach(host, self.config(case), model_inputs(case, problem.data) if problem.data else None)
        return self._subject(case, problem, host)

    def config(self, case: Case) -> lite.Config:
        """The config a case asks for."""
        asked: dict[str, Any] = {
            "r": case.rank,
            "alpha": case.alpha,
            "dtype": as_dtype(case.adapter_dtype) if case.adapter_dtype else None,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return lite.VARIANTS[self.variant].config(**given, **dict(case.options))

    def save(self, subject: Subject, file: Path) -> None:
        """As users do."""
        lite.save(subject.module, file)

    def restore(self, case: Case, problem: Problem, file: Path) -> Subject:
        """As users do, on a fresh base."""
        host = _host(case, problem)
        seed(case)
        return self._subject(case, problem, lite.load(host, file))

    @property
    def documentation(self) -> Documentation:
        """The header of the variant's file and its config's docstring."""
        variant = lite.VARIANTS[self.variant]
        common = {field.name for field in fields(lite.Config)}
        own = [field.name for field in fields(variant.config) if field.name not in common]
        module, code_module = (inspect.unwrap(function).__globals__ for function in (variant.init, variant.code))
        own_code = variant.code if code_module is module else variant.init
        return parse(module["__doc__"], f"lite/{location(own_code)}", variant.config.__doc__ or "", own)

    @property
    def lifecycle(self) -> Lifecycle:
        """Lite's runtime."""
        return LiteRuntime(self.variant, self.small)

    def _subject(self, case: Case, problem: Problem, host: nn.Module) -> Subject:
        layer = host.get_submodule("layer")
        tensors: dict[str, Tensor] = dict(layer.named_parameters()) | dict(layer.named_buffers())
        entries = {name: Entry(name) for name in tensors if name.startswith("lora_")}
        if self.formula.residual:
            entries[RESIDUAL] = weight_entry(case, "weight")
        call = caller(layer, case, INPUT_NAMES[case.layer])
        return Subject(host, call, entries, tensors, self.formula.shapes(case, problem.weight))


@dataclass(frozen=True)
class LiteRuntime:
    """Lite's attach, detach, save and load with one variant. options: of every request that does not say otherwise."""

    variant: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_weight(self) -> bool:
        """Whether the variant needs a dense weight."""
        return lite.VARIANTS[self.variant].reads_weight

    def targets(self, model: nn.Module, request: Mapping[str, Any]) -> tuple[list[Layer], str]:
        """The layers that a request selects, and why it cannot be attached to them as it is, or ""; ValueError if there are none."""
        config = lite.VARIANTS[self.variant].config(**request)
        selected = targets(model, config)
        try:
            plan(model, [config])
        except ValueError as error:
            return selected, str(error)
        return selected, ""

    def attach(self, model: nn.Module, *requests: Mapping[str, Any], data: Iterable[Any] | None = None) -> None:
        """One config per request."""
        configs = [lite.VARIANTS[self.variant].config(**{**self.options, **request}) for request in requests]
        lite.attach(model, configs[0] if len(configs) == 1 else configs, data)

    def detach(self, model: nn.Module) -> None:
        """`lite.detach`."""
        lite.detach(model)

    def save(self, model: nn.Module, file: Path) -> None:
        """`lite.save`."""
        lite.save(model, file)

    def load(self, model: nn.Module, file: Path) -> None:
        """`lite.load`."""
        lite.load(model, file)

    def stranger(self) -> Lifecycle:
        """Another variant of lite."""
        return LiteRuntime("lora" if self.variant != "lora" else "dora")


def _host(case: Case, problem: Problem) -> nn.Module:
    if problem.data:
        return pair(case, problem.weight, problem.bias)
    return nn.ModuleDict({"layer": base_layer(case, problem.weight, problem.bias)})
