"""What the index, README, the badges and the check have to know of a variant's certificate."""

from dataclasses import dataclass

from conformance.certificate import Certificate
from conformance.floor import Floor, void
from conformance.verdict import PAIR, Measurement, Verdict, rounded_up, worst

COLORS = {"faithful": "brightgreen", "faithful, doc gap": "green", "faithful with documented divergence": "green", "buggy": "red"}


@dataclass(frozen=True, slots=True)
class Summary:
    """A certificate in a row. floors: what the suite could have seen. name: of what is no variant of lite.

    counted: measurements, cases and cases on pretrained weights, where the certificate holds only the largest.
    """

    certificate: Certificate
    floors: tuple[Floor, ...] = ()
    name: str = ""
    counted: tuple[int, int, int] | None = None

    @property
    def variant(self) -> str:
        """Its name."""
        return self.certificate.variant

    @property
    def label(self) -> str:
        """What its badge and its files are called."""
        return self.name or self.variant

    @property
    def verdict(self) -> str:
        """Of the whole; void if the suite was too blind to say anything."""
        return "void" if self.blind else self.certificate.verdict

    @property
    def blind(self) -> list[str]:
        """What the suite could not have seen; of others' layers no floor is measured, they are judged by lite's suite."""
        return [] if self.name else void(self.floors)

    @property
    def color(self) -> str:
        """Of its badge, as shields names it."""
        return COLORS.get(self.verdict, "yellow")

    def against(self, reference: str) -> str:
        """The worst verdict against a reference, or several of one name ("peft PSOFT"); a dash if there is none."""
        own = [m for m in self.certificate if PAIR not in m.reference and f"{m.reference} ".startswith(f"{reference} ")]
        return str(worst(own)) if own else "–"

    @property
    def references(self) -> dict[str, str]:
        """Name → version, pairs left out."""
        return {m.reference: m.version for m in self.certificate if m.version and PAIR not in m.reference}

    @property
    def cases(self) -> set[str]:
        """Ids of all cases."""
        return {m.case_id for m in self.certificate if m.case_id}

    @property
    def real_cases(self) -> set[str]:
        """Ids of those on pretrained weights."""
        return {id_ for id_ in self.cases if id_.startswith("minilm.")}

    @property
    def counts(self) -> tuple[int, int, int]:
        """Measurements, cases, cases on pretrained weights."""
        return self.counted or (len(self.certificate), len(self.cases), len(self.real_cases))

    @property
    def divergences(self) -> list[str]:
        """Ids of the documented divergences that were verified."""
        reasons = {m.reason for m in self.certificate if m.verdict is Verdict.DIVERGES}
        return sorted({reason.partition(":")[0] for reason in reasons})

    def worst_in(self, unit: str) -> str:
        """The candidate's largest error in a unit, rounded up; what is documented of a reference is no error of its own."""
        errors = [m.error for m in self.measured if m.unit == unit and m.verdict is not Verdict.DIVERGES]
        return rounded_up(max(errors)) if errors else "–"

    @property
    def measured(self) -> list[Measurement]:
        """The candidate's own measurements that are evidence: not among references, no refusals."""
        out = (Verdict.NOT_APPLICABLE, Verdict.UNTESTED)
        return [m for m in self.certificate if PAIR not in m.reference and m.evidence and m.verdict not in out]

    @property
    def cells(self) -> dict[str, str]:
        """Cell → verdict. `identical` is written `equivalent`: which of the two it is may depend on the processor."""
        return {
            f"{check} against {reference}": str(Verdict.EQUIVALENT if verdict is Verdict.IDENTICAL else verdict)
            for (check, reference), verdict in self.certificate.cells.items()
        }

    def to_dict(self) -> dict[str, object]:
        """What is committed, to be compared with the next run."""
        return {
            "verdict": self.verdict,
            "divergences": self.divergences,
            "doc gaps": list(self.certificate.doc_gaps),
            "cells": self.cells,
        }
