"""`certify`: the same checks on somebody else's layer."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.certificate import Certificate
from conformance.jobs import jobs
from conformance.suite import Candidate, Lifecycle, Suite
from conformance.suite_of import suite_of
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
        return module


def certify(
    factory: Factory | Candidate,
    variant: str,
    map: Mapping[str, Any] | None = None,  # noqa: A002 the project's word for it
    *,
    reset: Callable[[Any, Case], Any] | None = None,
    input_name: str | None = None,
    checks: Sequence[str] | str | None = None,
    case: str | None = None,
) -> Certificate:
    """Run a variant's checks on somebody else's layer and return the measurements.

    factory: (base layer, case) → an `nn.Module` that adapts it: x (…, d_in) → (…, d_out). It finds what it needs in
        the case: rank, alpha, dtype, `case.option("dropout", 0.0)` and the variant's other options, and raises
        NotImplementedError for what it does not offer. The base layer is frozen and holds the weight; wrap it or copy from it.
        Or an object that is a `conformance.suite.Candidate`, which brings its own map.
    variant: the method it claims to be.
    map: canonical name → name in the module's `state_dict()`, or a mapping with name and any of transpose, shape, sign,
        scale (see `refs.maps`). Every trainable has to be there; frozen tensors may be, and have to where they come from a
        decomposition: `residual` is the weight that a part was taken out of (PiSSA), told as (d_out, d_in).
    reset: (module, case) → runs the layer's own init of its adapter again; it is seeded immediately before. Without it,
        seed parity is untested for layers whose constructor draws other numbers first.
    input_name: what the layer's forward calls its input; without it, calls by keyword are not tried.
    checks: names of the checks to run, all by default. case: id of the one case to run, as failures print it.

    Methods that start from data (EVA, CorDA, ASVD): `refs.calibration.calls(refs.calibration.batches(case), labels=True)` holds the tokens that
    the layer ("layer") and one beside it ("beside"), which a budget of ranks is shared with, receive; a factory takes its start
    from them.

    Raises ValueError for an unknown variant, check or canonical name and for a map that cannot be read, TypeError for a factory
    that is none. Whatever the factory itself raises becomes a measurement with the verdict `error`.
    """
    suite = suite_of(variant)
    checks = [checks] if isinstance(checks, str) else checks
    candidate = _candidate(factory, suite, map, reset, input_name)
    if checks is not None and not checks:
        raise ValueError("checks is empty: name some, or leave it out for all")
    planned = [job for job in jobs(suite, candidate) if checks is None or job.check.name in checks]
    if unknown := set(checks or ()) - {job.check.name for job in planned}:
        known = dict.fromkeys(job.check.name for job in jobs(suite, candidate))
        raise ValueError(f"unknown check {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    measurements = tuple(m for job in planned for m in job.measure(case))
    if not measurements:
        raise ValueError(f"no check has a case {case!r}; the grid has {', '.join(known_case.id for known_case in suite.cases)}")
    return Certificate(variant, measurements, complete=checks is None and case is None)


def _candidate(
    factory: Factory | Candidate,
    suite: Suite,
    map_data: Mapping[str, Any] | None,
    reset: Callable[[Any, Case], Any] | None,
    input_name: str | None,
) -> Candidate:
    if not callable(factory):
        if hasattr(type(factory), "build"):
            return factory
        raise TypeError(f"factory should be a function (base layer, case) → nn.Module, got {factory!r}")
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
