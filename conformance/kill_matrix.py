"""The kill matrix: every known bug planted, and the checks that it turns red."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table

from conformance import runs
from conformance.certificate import Certificate
from conformance.checks import CHECKS
from conformance.jobs import jobs
from conformance.known_bugs import BUGS, Bug, planted
from conformance.parallel import as_done, bar
from conformance.suite_of import suite_of
from conformance.terminal import rendered
from conformance.variants import check_known, known
from conformance.verdict import Verdict

TOGETHER = 20  # bugs that are planted one after the other in one process
DRAWN = {"shape sweep"}  # drawn cases see most bugs, too, or not; they are run for those that nothing else sees


@dataclass(frozen=True)
class Row:
    """What became of one planted bug, or of a variant without one (bug None).

    red, asked: the checks that turned red, and those that could. said: whether a red measurement had the bug's message.
    unplanted: why the bug could not be planted, or "".
    """

    variant: str
    bug: str | None
    red: frozenset[str]
    asked: frozenset[str]
    said: bool
    unplanted: str = ""

    @property
    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        if self.bug is None:
            return f"red without a bug: {_list(self.red)}" if self.red else None
        if self.unplanted:
            return self.unplanted
        declared = next(bug for bug in BUGS if bug.id == self.bug)
        if not self.red:
            return f"survived; should turn red: {_list(declared.red)}"
        if self.red != declared.red:
            return f"turned red: {_list(self.red)}; should: {_list(declared.red)}"
        return None if self.said else f"no red measurement says {declared.message!r}"


def measured(variant: str, *, drawn: bool = True) -> Certificate:
    """Lite as it is now, on a suite's small cases. A new candidate: runs are cached by candidate, and another bug's must not be found again."""
    suite = suite_of(variant).small
    candidate = dataclasses.replace(suite.candidate)  # type: ignore[type-var]  # lite's layers are dataclasses
    chosen = [job for job in jobs(suite, candidate) if drawn or job.check.name not in DRAWN]
    return Certificate(variant, tuple(m for job in chosen for m in job.measure()))


def plant(bug: Bug) -> Row:
    """One bug's row."""
    try:
        with planted(bug):
            certificate = measured(bug.variant, drawn=bool(DRAWN & bug.red))
    except ValueError as error:  # lite's source has changed; the other bugs are told of all the same
        return Row(bug.variant, bug.id, frozenset(), frozenset(), said=False, unplanted=str(error))
    said = any(bug.message in f"{m.what}: {m.got} | {m.should}" for m in certificate if m.verdict.is_red)
    return _row(certificate, bug.id, said=said)


def healthy(variant: str) -> Row:
    """A variant's row without a bug: nothing may be red."""
    return _row(measured(variant), None, said=True)


def _row(certificate: Certificate, bug: str | None, *, said: bool) -> Row:
    asked = frozenset(check for (check, _), verdict in certificate.cells.items() if verdict is not Verdict.NOT_APPLICABLE)
    return Row(certificate.variant, bug, frozenset(certificate.red), asked, said)


def gaps(rows: Sequence[Row]) -> list[str]:
    """The pairs of a variant and a check that could turn red and that no bug turned red, of the variants whose health was measured."""
    return [
        f"{row.variant}: no bug turns {check} red"
        for row in rows
        if row.bug is None
        for check in CHECKS
        if check in row.asked and not any(check in other.red for other in rows if other.bug and other.variant == row.variant)
    ]


def rows(variants: Sequence[str], processes: int) -> Iterator[Row]:
    """The rows of some variants as they are measured."""
    work = [(_together, together) for variant in variants for together in _batches(variant)]
    yield from (row for _, made in as_done(work, processes) for row in made)


def _batches(variant: str) -> Iterator[tuple[str | Bug, ...]]:
    """The variant without a bug, then its bugs, some at a time: what its references compute stays in a process's memory."""
    work: tuple[str | Bug, ...] = (variant, *(bug for bug in BUGS if bug.variant == variant))
    yield from (work[first : first + TOGETHER] for first in range(0, len(work), TOGETHER))


def _together(work: tuple[str | Bug, ...]) -> list[Row]:
    made = [plant(one) if isinstance(one, Bug) else healthy(one) for one in work]
    runs.forget()  # nobody asks for them again
    return made


def report(names: Sequence[str], *, processes: int) -> int:
    """Plant all bugs, or those of some variants, print the matrix and what is wrong with it. Returns the exit status: 1 if anything is.

    Raises ValueError for a variant that is unknown.
    """
    check_known(names)
    chosen = list(names) or known()
    total = len(chosen) + sum(bug.variant in chosen for bug in BUGS)
    found = []
    with bar() as progress:
        task = progress.add_task("planting", total=total)
        for row in rows(chosen, processes):
            found.append(row)
            progress.update(task, advance=1, description=f"planting: {sum(bool(row.problem) for row in found)} problems")
    order = {bug.id: number for number, bug in enumerate(BUGS)}
    found.sort(key=lambda row: (row.variant, order[row.bug] if row.bug else -1))
    wrong = [f"{row.bug or row.variant}: {row.problem}" for row in found if row.problem] + gaps(found)
    if not names:
        wrong += [f"{check} is idle: no bug turns it red" for check in CHECKS if not any(check in row.red for row in found)]
    for variant in chosen:
        print(_matrix([row for row in found if row.variant == variant]))  # noqa: T201
    planted_bugs = sum(row.bug is not None for row in found)
    print(f"{planted_bugs} bugs planted, {sum(bool(row.bug and row.red) for row in found)} killed; {len(wrong)} problems")  # noqa: T201
    for line in wrong:
        print(f"  {line}")  # noqa: T201
    return 1 if wrong else 0


def _matrix(own: Sequence[Row]) -> str:
    """Of one variant: bugs down, checks across by number."""
    checks = [check for check in CHECKS if any(check in row.asked for row in own)]
    table = Table(box=SIMPLE, title=f"{own[0].variant}: bug × check", title_justify="left")
    for title in ("bug", *(str(number) for number, _ in enumerate(checks, 1))):
        table.add_column(title)
    for row in own:
        if row.bug:
            table.add_row(row.bug, *("●" if check in row.red else "" for check in checks))
    key = ", ".join(f"{number} {check}" for number, check in enumerate(checks, 1))
    return f"{rendered(table)}\n  {key}\n"


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
