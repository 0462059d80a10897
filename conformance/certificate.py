"""A certificate: the measurements of one candidate for one variant, and what they add up to."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from conformance.terminal import failure_table, verdict_table
from conformance.verdict import Measurement, Verdict, by_cell, cells, of_variant, worst


@dataclass(frozen=True)
class Certificate(Sequence[Measurement]):
    """Iterates over its measurements; prints as the verdict table and a table per failed cell.

    complete: whether all checks and cases were run. doc_gaps: what the candidate's documentation leaves out.
    machine: what a run that was kept was made with.
    """

    variant: str
    measurements: tuple[Measurement, ...]
    complete: bool = True
    doc_gaps: tuple[str, ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Measurement]: ...
    def __getitem__(self, index: int | slice) -> Measurement | Sequence[Measurement]:
        """A measurement."""
        return self.measurements[index]

    def __len__(self) -> int:
        """How many measurements there are."""
        return len(self.measurements)

    @property
    def verdict(self) -> str:
        """Of the whole: faithful (in its three forms), partial or buggy."""
        return of_variant(self.cells.values(), complete=self.complete, doc_gaps=self.doc_gaps)

    @functools.cached_property
    def cells(self) -> dict[tuple[str, str], Verdict]:
        """(check, reference) → verdict."""
        return cells(self.measurements)

    @property
    def red(self) -> set[str]:
        """The checks that failed."""
        return {check for (check, _), verdict in self.cells.items() if verdict.is_red}

    @functools.cached_property
    def table(self) -> str:
        """The verdict and the verdict table."""
        gaps = [f"  doc gap: {gap}" for gap in self.doc_gaps]
        return "\n".join([verdict_table(f"{self.variant}: {self.verdict}", self.measurements), *gaps])

    def failures(self, most: int | None = None) -> list[str]:
        """A text per failed cell. most: show so many of its cases and count the others."""
        return [failure_table(own, most) for own in by_cell(self.measurements).values() if worst(own).is_red]

    def __str__(self) -> str:
        """The verdict table, then the failures."""
        return "\n\n".join([self.table, *self.failures(most=4)])
