"""Jobs as pytest tests, one per cell of the verdict table."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from conformance.documentation import gaps as doc_gaps
from conformance.jobs import Job, jobs
from conformance.plugin import PROPERTY
from conformance.suite import Suite
from conformance.terminal import failure_table
from conformance.verdict import Measurement, Verdict, worst


def parametrized(suite: Suite, chosen: Sequence[Job] | None = None, *, name: str = "", folder: str = "") -> Callable[..., None]:
    """A test function with one parameter set per job, marked `variant(name=…)`.

    chosen: some of the suite's jobs. name, folder: of the page that they get, if it is not the variant's own of a run.
    """
    cells = list(enumerate(chosen or jobs(suite)))
    documentation = suite.candidate.documentation
    gaps = doc_gaps(suite.variant, documentation, list(dict.fromkeys(d.id for d in suite.divergences))) if documentation else []
    about = {"variant": suite.variant, "name": name, "folder": folder, "size": len(cells), "doc_gaps": gaps}

    @pytest.mark.variant(name=suite.variant, page=f"{folder}/{name}.md" if folder else "")
    @pytest.mark.parametrize(("place", "job"), cells, ids=[job.id for _, job in cells])
    def test(place: int, job: Job, record_property: Callable[[str, Any], None], pytestconfig: pytest.Config) -> None:
        only = pytestconfig.getoption("--case", None)
        measurements = job.measure(only)
        if only and not measurements:
            pytest.skip(f"has no case {only}")
        record_property(PROPERTY, (about, place, [m.to_dict() for m in measurements]))
        conclude(measurements)

    made: Callable[..., None] = test
    return made


def conclude(measurements: Sequence[Measurement]) -> None:
    """End a test as its measurements say: red fails with both sides, untested skips with the reason."""
    verdict = worst(measurements)
    if verdict.is_red:
        pytest.fail(failure_table(measurements, most=4), pytrace=False)
    if verdict is Verdict.UNTESTED:
        pytest.skip("; ".join(dict.fromkeys(m.reason for m in measurements if m.reason)))
