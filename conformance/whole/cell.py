"""A cell: one check of one variant on one whole model. What it measures goes into a record; pytest runs it as a test."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from conformance.parametrize import conclude
from conformance.plugin import WHOLE
from conformance.policy import Judgement
from conformance.terminal import WHOLE_MODEL
from conformance.verdict import GROUP, Measurement, Verdict
from refs.installed import VERSION
from refs.models import Model
from refs.threads import one_thread


@dataclass(eq=False)
class Record:
    """What has been measured so far, in groups: what belongs together, such as the mode a model was in."""

    check: str
    variant: str
    model: str
    measured: list[Measurement] = field(default_factory=list)

    def judge(self, group: str, what: str, judgement: Judgement) -> None:
        """Add what the policy says of one tensor."""
        j = judgement
        self._add(
            j.verdict, group, what,
            error=j.error, bound=j.bound, unit=j.unit, got=j.got, should=j.should, reason=j.reason, evidence=j.evidence,
        )  # fmt: skip

    def expect(self, group: str, what: str, got: object, should: object) -> None:
        """Add a fact: `identical` if both sides are equal, `fails` with both if not."""
        same = got == should
        sides = {} if same else {"got": str(got), "should": str(should)}
        self._add(Verdict.IDENTICAL if same else Verdict.FAILS, group, what, **sides)

    def diverges(self, group: str, what: str, reason: str) -> None:
        """Add a documented difference that was verified to be there."""
        self._add(Verdict.DIVERGES, group, what, reason=reason)

    def names(self, group: str, what: str, got: set[str], should: set[str]) -> None:
        """Add whether both sides hold the same names: how many, and some of those that the other has not."""
        self.expect(group, what, _beside(got, should), _beside(should, got))

    def not_applicable(self, group: str, reason: str) -> None:
        """Add why something cannot be asked."""
        self._add(Verdict.NOT_APPLICABLE, group, "", reason=reason)

    def untested(self, group: str, reason: str) -> None:
        """Add why something was not tested."""
        self._add(Verdict.UNTESTED, group, "", reason=reason)

    def raised(self, error: Exception) -> None:
        """Add an exception, where a run was to be measured."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        got = f"{type(error).__name__}: {error} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno})"
        self._add(Verdict.ERROR, "run", "", got=got, should="no exception")

    def _add(self, verdict: Verdict, group: str, what: str, **more: Any) -> None:
        self.measured.append(
            Measurement(
                variant=self.variant,
                candidate="lite",
                reference="peft",
                version=f"peft {VERSION}",
                check=self.check,
                verdict=verdict,
                case=f"{WHOLE_MODEL}{self.model}",
                case_id=self.model,
                what=f"{group}{GROUP}{what}" if what else group,
                **more,
            )
        )


def _beside(names: set[str], others: set[str]) -> str:
    more = sorted(names - others)
    return f"{len(names)}" + (f", also {', '.join(more[:4])}" if more else "")


@dataclass(frozen=True, eq=False)
class Cell:
    """run: (record) → measures into it."""

    check: str
    variant: str
    model: str
    run: Callable[[Record], None]

    @property
    def id(self) -> str:
        """Fit for `pytest -k`."""
        return f"{self.variant}-{self.model}"

    def measure(self) -> list[Measurement]:
        """Never raises: an exception is a measurement with the verdict `error`."""
        record = Record(self.check, self.variant, self.model)
        try:
            with one_thread():
                self.run(record)
        except Exception as error:  # a candidate may raise anything
            record.raised(error)
        if not record.measured:
            record.untested("run", "the check made no measurement")
        return record.measured


def on_models(
    check: str, variants: Iterable[str], models: Iterable[Model], measured: Callable[[Model, Record], None]
) -> list[Cell]:
    """Every variant on every model. measured: (model, record) → measures into it."""
    return [Cell(check, variant, model.name, partial(measured, model)) for variant in variants for model in models]


def as_tests(cells: Sequence[Cell]) -> Callable[..., None]:
    """A test function with one parameter set per cell of one check, marked `variant(name=…)`."""
    placed = [
        pytest.param(place, cell, id=cell.id, marks=pytest.mark.variant(name=cell.variant)) for place, cell in enumerate(cells)
    ]

    @pytest.mark.parametrize(("place", "cell"), placed)
    def test(place: int, cell: Cell, record_property: Callable[[str, Any], None]) -> None:
        measurements = cell.measure()
        record_property(WHOLE, (cell.check, place, len(cells), [m.to_dict() for m in measurements]))
        conclude(measurements)

    made: Callable[..., None] = test
    return made
