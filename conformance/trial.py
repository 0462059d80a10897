"""What a check gets: the candidate, one reference, the cases; and how it reports what it measures."""

import functools
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.guards import unguarded
from conformance.policy import Judgement
from conformance.suite import Candidate, Reference, Suite
from conformance.verdict import PAIR, Measurement, Verdict
from refs import minilm
from refs.case import Case
from refs.formula import Formula
from refs.subject import Implementation


@dataclass(kw_only=True)
class Trial:
    """One check of one candidate against one reference, or against itself (reference None).

    only: the id of the single case to run, or None for all.
    measured: what has been reported so far. at: the case being run, for what goes wrong in it.
    """

    suite: Suite
    check: str
    candidate: Implementation
    reference: Reference | None
    only: str | None = None
    measured: list[Measurement] = field(default_factory=list)
    at: Case | None = None

    @property
    def formula(self) -> Formula:
        """The variant's equations, which the numbers of every case come from."""
        return self.suite.formula

    @property
    def subject(self) -> Candidate:
        """The candidate, for checks that need more of it than layers."""
        return self.candidate  # type: ignore[return-value]  # self-checks are never run between references

    @property
    def truth(self) -> Reference:
        """The reference, for checks that have one."""
        assert self.reference is not None
        return self.reference

    @functools.cached_property
    def column(self) -> str:
        """The table's column: the reference, or a pair of references, or the candidate itself."""
        if self.reference is None:
            return "itself"
        return f"{self.candidate.name}{PAIR}{self.reference.name}" if self.is_among_references else self.reference.name

    @property
    def is_among_references(self) -> bool:
        """Whether a reference is judged by another."""
        return any(self.candidate is reference for reference in self.suite.references)

    @property
    def is_replayed(self) -> bool:
        """Whether the candidate is a reference that only answers what was recorded: it cannot be asked anything else."""
        return any(self.candidate is reference and reference.is_fixed for reference in self.suite.references)

    @property
    def other_start(self) -> str | None:
        """Why starts cannot be compared: a reference has one of its own."""
        sides = [self.reference, *(r for r in self.suite.references if r is self.candidate)]
        return next((side.other_start for side in sides if side and side.other_start), None)

    def report(self, verdict: Verdict, what: str = "", case: Case | None = None, **more: Any) -> None:
        """Add a measurement."""
        self.measured.append(
            Measurement(
                variant=self.suite.variant,
                candidate=self.candidate.name,
                reference=self.column,
                version=self.reference.version if self.reference else "",
                check=self.check,
                verdict=verdict,
                what=what,
                case=repr(case) if case else "",
                case_id=case.id if case else "",
                **more,
            )
        )

    def judge(self, what: str, case: Case | None, judgement: Judgement) -> None:
        """Add what the policy says."""
        j = judgement
        self.report(
            j.verdict, what, case,
            error=j.error, bound=j.bound, unit=j.unit, got=j.got, should=j.should, reason=j.reason, evidence=j.evidence,
        )  # fmt: skip

    def expect(self, ok: bool, what: str, case: Case | None, got: str, should: str) -> None:
        """Add a fact: `identical` if it is so, `fails` with both sides if not."""
        if ok:
            self.report(Verdict.IDENTICAL, what, case)
        else:
            self.report(Verdict.FAILS, what, case, got=got, should=should)

    def not_applicable(self, reason: str, case: Case | None = None, *, evidence: bool = True) -> None:
        """Add the reason why something cannot be asked. evidence False: because of the candidate."""
        self.report(Verdict.NOT_APPLICABLE, case=case, reason=reason, evidence=evidence)

    def raised(self, error: Exception) -> None:
        """Add an exception, where a run was to be measured."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        got = f"{type(error).__name__}: {error} ({last.filename.rsplit('/', 1)[-1]}:{last.lineno})"
        self.report(Verdict.ERROR, "run", self.at, got=got, should="no exception")

    def untested(self, reason: str, case: Case | None = None) -> None:
        """Add the reason why something was not tested."""
        self.report(Verdict.UNTESTED, case=case, reason=reason)

    def cases(self, cases: Iterable[Case] | None = None, *, guarded: bool = True) -> Iterator[Case]:
        """The cases both sides can build; reports the reasons for the others. Default: the suite's grid."""
        for case in self.suite.cases if cases is None else cases:
            if self.only not in (None, case.id):
                continue
            if case.weight.startswith("minilm:") and (reason := minilm.missing()):
                self.untested(reason, case)
            elif self.reference and (reason := self.reference.refuses(case)):
                self.not_applicable(reason, case)
            elif (reason := self.candidate.refuses(case)) and _is_plain(case) and not self.is_among_references:
                self.untested(f"{self.candidate.name} refuses a plain case: {reason}", case)
            elif reason:
                # Among references a refusal is a fact about upstream; the candidate's own is no evidence for it.
                self.not_applicable(reason, case, evidence=self.is_among_references)
            elif guarded and (reason := unguarded(case, self.formula)):
                self.untested(f"the case has no guards: {reason}", case)
            else:
                self.at = case
                yield case
        self.at = None


def _is_plain(case: Case) -> bool:
    """Whether refusing it means to refuse the method: another size or bias, no option, no special layer or call."""
    return case.layer == "linear" and case.call == "positional" and not case.options and case.adapter_dtype is None


def scratch() -> TemporaryDirectory[str]:
    """A folder for files of one check."""
    return TemporaryDirectory(prefix="conformance-")


def path_in(folder: str, name: str = "adapter.safetensors") -> Path:
    """A file in a scratch folder."""
    return Path(folder) / name
