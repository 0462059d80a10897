"""The reference `author` for LoRA: the layer its authors publish as the package loralib."""

from dataclasses import dataclass
from importlib import metadata, util
from typing import Any
from unittest import mock

from torch import nn

from refs.bases import base_layer
from refs.case import Case
from refs.formula import Formula
from refs.maps import Entry
from refs.problem import Problem
from refs.source import location
from refs.subject import Subject, caller, seed


@dataclass(frozen=True, eq=False)
class LoralibLayer:
    """`loralib.Linear` as an implementation."""

    formula: Formula
    name: str = "author"
    other_start: None = None
    equation: str = "y = x Wᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  s = lora_alpha/r"

    @property
    def version(self) -> str:
        """The installed release, the file and its lines."""
        if self.missing():
            return "loralib, not installed"
        import loralib

        return f"loralib {metadata.version('loralib')}, {location(loralib.Linear.forward)}, live"

    def missing(self) -> str | None:
        """Why it cannot run at all, or None."""
        return None if util.find_spec("loralib") else "loralib is not installed"

    def refuses(self, case: Case) -> str | None:
        """Options and base layers that loralib does not have."""
        if case.layer != "linear":
            return "loralib adapts nn.Linear only"
        if case.rank is None:
            return "loralib's default rank is 0: a plain linear layer"
        if case.adapter_dtype:
            return "loralib's adapter has the base's dtype"
        absent = [f"{name}={value!r}" for name, value in case.options if name != "dropout"]
        return f"loralib has no {', '.join(absent)}" if absent else None

    def build(self, case: Case, problem: Problem) -> Subject:
        """A loralib layer at its own init, without the base weight's draws that come first there."""
        import loralib

        layer: Any = loralib.Linear(
            case.d_in, case.d_out, r=case.rank, lora_alpha=case.alpha, lora_dropout=case.option("dropout", 0.0), bias=case.bias
        )
        with mock.patch.object(nn.Linear, "reset_parameters"):
            seed(case)
            layer.reset_parameters()
        layer.to(case.torch_dtype).load_state_dict(base_layer(case, problem.weight, problem.bias).state_dict(), strict=False)
        loralib.mark_only_lora_as_trainable(layer)
        tensors = dict(layer.named_parameters())
        entries = {name: Entry(name) for name in problem.parameters}
        return Subject(layer, caller(layer, case, "x"), entries, tensors, self.formula.shapes(case, problem.weight))
