"""The reference `peft`: layers of the installed release, through the map that the variant declares."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
from torch import Tensor, nn

from refs import recorded
from refs.bases import base_layer, weight_entry
from refs.calibration import pair
from refs.case import Case, as_dtype
from refs.formula import RESIDUAL, Formula
from refs.installed import VERSION, Absent
from refs.maps import parse
from refs.problem import Problem
from refs.source import location
from refs.subject import Subject, caller, seed

KINDS = {"linear": "nn.Linear", "conv1d": "Conv1D", "other": "linear-like modules that are no nn.Linear"}
ADAPTER = "default"  # the name peft gives an adapter unless told otherwise


def inject(model: nn.Module, config: Any, case: Case, problem: Problem) -> None:
    """As peft does it for models of any kind."""
    peft.inject_adapter_in_model(config, model, ADAPTER)


@dataclass(frozen=True, kw_only=True, eq=False)
class PeftLayer:
    """One peft method as an implementation.

    config: peft's config class, with whatever switches the method on.
    words: the case's rank, alpha and options in peft's words: a name, or (name, {our value: peft's value}).
    reset: (layer, case) → the layer's own init, run again; seeded immediately before.
    map: canonical name → name in peft's checkpoint, as the variant declares it.
    kinds: the base layers peft accepts for this method. single: whether it refuses a float64 base, so that the layer is made in
        float32 and cast.
    inject: (model, config, case, problem) → puts the adapter into the model.
    unable: (case) → why peft cannot do this, or None. other_start: why its start and defaults are not the method's, or None.
    code: the function of the installed release that computes the method. equation: what it does, in the project's notation.
    """

    config: Callable[..., Any]
    words: Mapping[str, str | tuple[str, Mapping[Any, Any]]]
    reset: Callable[[Any, Case], None]
    map: Mapping[str, Any]
    formula: Formula
    code: Callable[..., Any]
    equation: str
    kinds: tuple[str, ...] = ("linear",)
    single: bool = False
    inject: Callable[[nn.Module, Any, Case, Problem], None] = inject
    unable: Callable[[Case], str | None] = lambda case: None
    other_start: str | None = None
    is_fixed: bool = False
    name: str = "peft"

    @property
    def version(self) -> str:
        """The installed release, the file and its lines."""
        if isinstance(self.code, Absent):
            return f"peft {VERSION}"
        return f"peft {VERSION}, {location(self.code)}"

    def missing(self) -> str | None:
        """What this release does not have, if it is older than the method."""
        return f"peft {VERSION} has no {self.code.name}" if isinstance(self.code, Absent) else None

    def refuses(self, case: Case) -> str | None:
        """Base layers and options that peft does not take."""
        if case.layer not in self.kinds:
            return f"peft {VERSION} does not take {KINDS[case.layer]} here"
        if self.single and case.dtype == "float64" and case.weight.startswith(recorded.KIND):
            return f"peft {VERSION} is made in float32, which cannot hold the recorded weight"
        reason = self.unable(case)
        return reason and f"peft {VERSION} {reason}"

    def build(self, case: Case, problem: Problem) -> Subject:
        """A peft layer at its own init."""
        made = case.but(dtype="float32") if self.single and case.dtype == "float64" else case
        host: Any
        if problem.data:
            host, targets = pair(made, problem.weight, problem.bias), ["layer", "beside"]
        else:
            host, targets = nn.ModuleDict({"layer": base_layer(made, problem.weight, problem.bias)}), ["layer"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's advice to its users
            self.inject(host, self.config(target_modules=targets, **self.arguments(case)), made, problem)
        layer: Any = host.get_submodule("layer")
        if self.formula.residual and not problem.data:  # the reset takes its part out of what is there
            layer.get_base_layer().load_state_dict(base_layer(made, problem.weight, problem.bias).state_dict())
        seed(case)
        self.reset(layer, case)
        layer.to(case.torch_dtype)
        shapes = self.formula.shapes(case, problem.weight)
        entries = {name: entry for name, entry in parse(self.map).items() if name in shapes}
        tensors = tensors_of(layer, {entry.name for entry in entries.values()})
        for entry in entries.values():  # some resets make float32 tensors whatever the base
            tensors[entry.name].data = tensors[entry.name].data.to(as_dtype(case.adapter_dtype or case.dtype))
        if self.formula.residual:
            entries[RESIDUAL] = weight_entry(case, "base_layer.weight")
        return Subject(layer, caller(layer, case, "x"), entries, tensors, shapes)

    def arguments(self, case: Case) -> dict[str, Any]:
        """What the case asks for, in peft's words; ValueError for an option that has none."""
        asked = {name: value for name, value in (("rank", case.rank), ("alpha", case.alpha)) if value is not None}
        arguments = {}
        for name, value in (asked | dict(case.options)).items():
            if name not in self.words:
                raise ValueError(f"{self.version}: no word for {name}={value!r}; known: {', '.join(self.words)}")
            word = self.words[name]
            key, values = (word, {value: value}) if isinstance(word, str) else word
            if value not in values:
                raise ValueError(f"{self.version}: no word for {name}={value!r}; known values: {', '.join(map(repr, values))}")
            arguments[key] = values[value]
        return arguments


def tensors_of(layer: nn.Module, mapped: set[str]) -> dict[str, Tensor]:
    """A layer's tensors under the names of peft's checkpoint: without the adapter's name, and `weight` dropped where peft does."""
    found = {}
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        short = name.replace(f".{ADAPTER}", "")
        bare = short.removesuffix(".weight")
        found[bare if bare in mapped else short] = tensor
    return found
