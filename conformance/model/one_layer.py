"""One variant on one layer of the model: whether it starts as the base layer, learns with every tensor, and is peft's layer."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conformance import policy, runs
from conformance.checks.function import compare
from conformance.checks.start import summed_sizes
from conformance.jobs import verified
from conformance.model.stream import Call
from conformance.suite import Lifecycle, Suite
from conformance.trial import Trial
from conformance.verdict import Measurement
from lite.layers import Layer
from refs import given
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.peft_layer import PeftLayer
from refs.problem import problem
from refs.subject import seed

RANK, ALPHA = 8, 12.0  # a scale of 1 would hide a wrong one
IDENTITY, DEAD, START = "identity", "dead parameters", "size of the start"
FORWARD, GRADIENTS = "forward", "gradients"


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement of a layer. relative: ‖y − y_base‖/‖y_base‖, where it is of an output."""

    layer: str
    measurement: Measurement
    relative: float | None = None


@dataclass(frozen=True, eq=False)
class Adapted:
    """A variant on a layer. calls: what the layer got from the model. file: where its start is kept."""

    suite: Suite
    layer: Layer
    calls: list[Call]
    file: Path
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def case(self) -> Case:
        """The layer as a case: its first call, the variant's rank and options as they fit it."""
        plain = self.suite.cases[0]
        x, layer = self.calls[0].x, self.layer
        kind = "conv1d" if layer.transposed else "linear" if isinstance(layer.module, nn.Linear) else "other"
        case = Case(
            d_in=layer.d_in,
            d_out=layer.d_out,
            rank=None if plain.rank is None else RANK,
            alpha=None if plain.alpha is None else ALPHA,
            bias=layer.bias is not None,
            layer=kind,
            batch=tuple(x.shape[:-1]),
            weight=f"{given.KIND}{layer.name}",
            data=self.suite.bare.data,
        )
        return self.suite.fit(case)

    @property
    def lifecycle(self) -> Lifecycle:
        """The runtime that attaches it."""
        lifecycle = self.suite.candidate.lifecycle
        assert lifecycle is not None
        return lifecycle

    @contextmanager
    def numbers(self) -> Iterator[None]:
        """The layer's numbers, for every check; forgotten afterwards, so that one layer at a time is in memory."""
        bias = self.layer.bias
        brought = given.Given(self.layer.weight.detach(), None if bias is None else bias.detach(), self.calls[0].x)
        try:
            with given.here(self.layer.name, brought):
                yield
        finally:
            runs.forget()

    def measure(self) -> list[Row]:
        """Everything. Whatever goes wrong becomes a row."""
        with self.numbers():
            if reason := self.unfit():
                for trial in (self._trial(IDENTITY), self._trial(DEAD), *self._beside()):
                    trial.untested(reason, self.case)
                    self._add(trial)
            else:
                self._start()
                self._parity()
        return self.rows

    def _trial(self, check: str, reference: Any = None) -> Trial:
        return Trial(
            suite=replace(self.suite, cases=(self.case,)), check=check, candidate=self.suite.candidate, reference=reference
        )

    def _add(self, trial: Trial, relative: float | None = None) -> None:
        self.rows.extend(Row(self.layer.name, measurement, relative) for measurement in trial.measured)

    def _start(self) -> None:
        """Attach to the model's own module, as its first act in training would find it."""
        host = hosted(self.layer)
        at_start, learns = self._trial(IDENTITY), self._trial(DEAD)
        relative = None
        try:
            with torch.no_grad():
                plain = host(self.calls[0].x)
            if refusal := self._attached(host):
                at_start.untested(refusal, self.case)
                self._add(at_start)
                return
            try:
                relative = self._identity(at_start, host, plain)
                self._dead(learns, host)
                self.lifecycle.save(host, self.file)
            finally:
                self.lifecycle.detach(host)
        except Exception as error:  # a layer of somebody's model may raise anything
            at_start.at = self.case
            at_start.raised(error)
        self._add(at_start, relative)
        self._add(learns)

    def _attached(self, host: nn.Module) -> str:
        """Attach; why lite refuses to, or ""."""
        asked = {"r": self.case.rank, "alpha": self.case.alpha} | dict(self.case.options)
        request = {name: value for name, value in asked.items() if value is not None}
        seed(self.case)
        try:
            self.lifecycle.attach(host, request, data=[self.calls[0].x] if self.case.data else None)
        except ValueError as error:
            return f"lite refuses it: {error}"
        return ""

    @torch.no_grad()
    def _identity(self, trial: Trial, host: nn.Module, plain: Tensor) -> float:
        """As the policy says it of every identity; ‖y − y_base‖/‖y_base‖."""
        output: Tensor = host(self.calls[0].x)
        formula = self.suite.formula
        if formula.identity(self.case):
            terms = summed_sizes(self.case, formula)
            trial.judge("output", self.case, policy.another_order(output, plain, terms, n=self.case.d_in))
        else:
            trial.not_applicable("this start is not the identity: see the size of the start", self.case)
        return policy.distance(output, plain)

    def _dead(self, trial: Trial, host: nn.Module) -> None:
        """What gets no gradient from the model's output, beyond what the closed form has dead where it starts."""
        parameters = {name.rpartition(".")[2]: p for name, p in host.named_parameters() if p.requires_grad}
        alive: set[str] = set()
        with torch.enable_grad():
            for call in self.calls:
                if call.cotangent is not None:
                    wanted = torch.autograd.grad(host(call.x), list(parameters.values()), call.cotangent, allow_unused=True)
                    alive |= {name for name, g in zip(parameters, wanted, strict=True) if g is not None and g.any()}
        dead = parameters.keys() - alive - self._dead_by_formula()
        why = "" if any(call.cotangent is not None for call in self.calls) else "; the model's output does not depend on this layer"
        trial.expect(not dead, "dead", self.case, f"no gradient for {', '.join(sorted(dead))}{why}", "a gradient for each")

    def _dead_by_formula(self) -> set[str]:
        formula, case = self.suite.formula, self.case.but(state="init")
        trace = runs.at_own_init(ClosedForm(formula), case, formula)
        return {name for name in problem(case, formula).parameters if not trace[f"grad.{name}"].any()}

    def _parity(self) -> None:
        """The layer alone in float64 beside peft's: the same numbers in every trainable, away from where they start."""
        for trial in self._beside():
            try:
                compare(trial, [self.case], outputs=trial.check == FORWARD)
            except Exception as error:
                trial.at = self.case
                trial.raised(error)
            for divergence in self.suite.divergences:
                if (divergence.check, divergence.reference) == (trial.check, trial.column):
                    trial.measured = verified(divergence, trial.measured)
            self._add(trial)

    def _beside(self) -> list[Trial]:
        """What is compared with peft's layers, where it has the method."""
        of_peft = [reference for reference in self.suite.references if isinstance(reference, PeftLayer)]
        return [self._trial(check, reference) for reference in of_peft for check in (FORWARD, GRADIENTS)]

    def departures(self, seeds: int) -> list[float]:
        """Of so many starts that are no identity, by what factor each adds more to the output than its spread says (root mean square)."""
        formula, case = self.suite.formula, self.case.but(state="init")
        assert formula.departure
        with self.numbers():
            numbers = problem(case, formula)
            plain = linear(numbers.x, numbers.weight, numbers.bias)
            expected = formula.departure(case, numbers.weight, numbers.x)
            starts = (case.but(seed=case.seed + n) for n in range(seeds))
            outputs = [runs.at_own_init(self.suite.candidate, start, formula, numbers)["output"] for start in starts]
        return [float((output - plain).square().mean().sqrt()) / expected for output in outputs]

    def unfit(self) -> str:
        """Why the method has no such layer, or no start there, or "". Of a sequence, a pooler sees one token."""
        case, needed = self.case, self.suite.formula.least_tokens(self.case)
        if (case.d_out, case.d_in) != (self.layer.d_out, self.layer.d_in):
            return f"no such layer: a weight {(case.d_out, case.d_in)} would do, this is {(self.layer.d_out, self.layer.d_in)}"
        there = self.calls[0].x[..., 0].numel()
        return f"{there} of the tokens reach this layer, a start from data needs {needed}" if case.data and there < needed else ""


def hosted(layer: Layer) -> nn.Module:
    """The layer alone as a model; it stays the model's own module."""
    return nn.Sequential(OrderedDict(layer=layer.module))
