"""A suite: what a variant is compared with, and on which cases. Declarative; one object per variant."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from packaging.specifiers import SpecifierSet
from torch import nn

from conformance.documentation import Documentation
from conformance.drift.releases import MEASURED
from conformance.verdict import Measurement
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.formula import Formula
from refs.installed import VERSION
from refs.problem import Problem
from refs.subject import Implementation, Subject


class Reference(Implementation, Protocol):
    """An implementation that is taken for the truth."""

    @property
    def version(self) -> str:
        """Which release, paper or commit it is, and where in it."""

    @property
    def equation(self) -> str:
        """What it computes, in the project's notation."""

    @property
    def is_fixed(self) -> bool:
        """Whether it answers only the cases it was recorded on, each with one start."""

    @property
    def other_start(self) -> str | None:
        """Why its start and its defaults are not the method's, or None."""


class Lifecycle(Protocol):
    """A library's runtime: how its adapters come, go and are stored. Options are named as in lite's configs."""

    @property
    def reads_weight(self) -> bool:
        """Whether the method needs a dense weight, so that quantised layers are refused."""

    def attach(self, model: nn.Module, *requests: Mapping[str, Any], data: Iterable[Any] | None = None) -> None:
        """Attach one adapter per request to the layers it targets (`target_names`). data: inputs of the model to start from."""

    def detach(self, model: nn.Module) -> None:
        """Undo `attach`."""

    def save(self, model: nn.Module, file: Path) -> None:
        """Write the adapters to a safetensors file."""

    def load(self, model: nn.Module, file: Path) -> None:
        """Attach what `save` wrote; where the very same requests are attached already, put it in their place."""

    def stranger(self) -> "Lifecycle":
        """The same runtime with another variant."""


class Candidate(Implementation, Protocol):
    """What is being judged."""

    @property
    def lifecycle(self) -> Lifecycle | None:
        """The runtime around it, or None for a bare layer."""

    @property
    def documentation(self) -> Documentation | None:
        """What it says about itself, or None for a bare layer."""

    @property
    def has_defaults(self) -> bool:
        """Whether it builds cases that leave rank, alpha and options out."""

    @property
    def reseeds(self) -> bool:
        """Whether `build` seeds immediately before the adapter's own init."""

    def save(self, subject: Subject, file: Path) -> None:
        """Store a subject built by this candidate."""

    def restore(self, case: Case, problem: Problem, file: Path) -> Subject:
        """A fresh subject, on a fresh base, from what `save` wrote."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A known difference, explained, cited and verified: it has to be there, in this size, or it fails as stale.

    check, reference, what: where; `what` is a regular expression on the measured quantity. where: which cases.
    size: smallest and largest error, in the measurement's unit.
    releases: of peft, for which it holds (PEP 440, e.g. ">=0.18,<0.22"); in others it may be gone. By default those that are measured
        (`conformance.drift`) where it speaks of peft, else all.
    expected: False where it may be there and need not.
    """

    id: str
    check: str
    reference: str
    size: tuple[float, float]
    reason: str
    link: str
    what: str = ".*"
    where: Callable[[Case], bool] = lambda case: True
    releases: str = ""
    expected: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.size[0] <= self.size[1]:
            raise ValueError(f"divergence {self.id}: size should be the smallest and the largest error, got {self.size}")
        try:
            re.compile(self.what)
        except re.error as error:
            raise ValueError(f"divergence {self.id}: what={self.what!r} is no regular expression: {error}") from error

    @property
    def must_be_there(self) -> bool:
        """Whether the installed release of peft has to show it."""
        return self.expected and SpecifierSet(self.holds_for, prereleases=True).contains(VERSION)

    @property
    def holds_for(self) -> str:
        """The releases of peft; empty for all."""
        return self.releases or (MEASURED if "peft" in re.findall(r"\w+", self.reference) else "")

    def covers(self, measurement: Measurement) -> bool:
        """Whether it speaks of this measurement."""
        same_cell = (measurement.check, measurement.reference) == (self.check, self.reference)
        named = re.fullmatch(self.what, measurement.what) is not None
        return same_cell and named and bool(measurement.case) and self.where(Case.parse(measurement.case))


BARE = Case(d_in=24, d_out=16, batch=(2, 5))


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """One variant's.

    cases: the grid, in train mode, float64 and the perturbed state; checks vary dtype, state and mode themselves.
    dropout: whether the method has it.
    bare: the case without any option, for `defaults`.
    fit: (case) → the nearest case that the method can build, for generated ones: ranks and sizes that divide.
    refused: options that have to be refused: (what, config's arguments, words that the error has to say).
    candidate: lite's implementation; `certify` puts another in its place.
    """

    variant: str
    formula: Formula
    references: tuple[Reference, ...]
    candidate: Candidate
    cases: tuple[Case, ...]
    dropout: bool
    divergences: tuple[Divergence, ...] = ()
    bare: Case = BARE
    fit: Callable[[Case], Case] = lambda case: case
    refused: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = ()

    @property
    def small(self) -> "Suite":
        """Without the pretrained layers, which cost most of the time, and the recorded ones: neither sees a bug that nothing else sees."""
        return replace(self, cases=tuple(case for case in self.cases if not case.is_given))

    @property
    def for_others(self) -> "Suite":
        """For a layer that is not lite's: what is documented of lite may be true of it, too, and need not be."""
        return replace(self, divergences=tuple(replace(divergence, expected=False) for divergence in self.divergences))

    @cached_property
    def all_references(self) -> tuple[Reference, ...]:
        """The closed form first: it sees what the others share."""
        return (ClosedForm(self.formula), *self.references)


def within_rank(case: Case) -> Case:
    """For methods that take r components out of a weight, which has only so many."""
    return case.but(rank=min(case.rank or case.d_in, case.d_in, case.d_out))


def grid(
    *,
    rank: bool = True,
    alpha: bool,
    weight: str = "random",
    data: str = "",
    options: Iterable[Mapping[str, Any]] = (),
    wide: bool = True,
) -> tuple[Case, ...]:
    """The cases every suite runs: d_in, d_out, rank, tokens and batch all differ; square is added, never alone.

    rank, alpha: whether the method has one. weight: kind of those that are of no other. data: what it starts from, if it does.
    options: the variant's own, one case each. wide: whether to run on a large real layer, too; what costs d_in³ does not.
    """

    def case(d_in: int, d_out: int, rank_: int, alpha_: float, **more: Any) -> Case:
        more = {"weight": weight, "data": data} | more
        return Case(d_in=d_in, d_out=d_out, rank=rank_ if rank else None, alpha=alpha_ if alpha else None, **more)

    plain = case(24, 16, 4, 6.0, batch=(2, 5))
    real = [
        case(384, 384, 8, 12.0, batch=(3, 10), weight="minilm:encoder.layer.3.attention.self.query"),
        case(1536, 384, 6, 9.0, batch=(3, 7), weight="minilm:encoder.layer.3.output.dense"),
    ]
    return (
        plain,
        case(10, 33, 3, 10.0, bias=False, batch=(7,), weight="flat"),
        case(12, 20, 2, 5.0, layer="conv1d", batch=(3, 2), weight="deficient"),
        case(20, 12, 5, 2.0, layer="other", call="keyword", batch=(2, 3, 2), weight="gap"),
        case(16, 16, 3, 4.0, call="keyword", batch=(9,)),
        case(40, 36, 20, 50.0, batch=(6,)),
        *(plain.but(options=given) for given in options),
        *(real if wide else real[:1]),
    )
