"""Search for the case with the largest error: hypothesis draws shapes, ranks, spectra and options, and climbs towards the worst."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, assume, given, settings, target
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from conformance.checks.function import compare
from conformance.guards import unguarded
from conformance.suite import Suite
from conformance.trial import Trial
from conformance.verdict import Measurement, Verdict
from refs.case import Case

SPECTRA = ("random", "decay", "gap", "flat", "deficient")


class _FoundError(Exception):
    """A measurement that fails; what a candidate raises is something else."""


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any], suite: Suite, largest: int) -> Case:
    """A case like one of the suite's: its kind of layer and options, but of any shape up to `largest`, rank, spectrum, state and mode."""
    like = draw(st.sampled_from([case for case in suite.cases if not case.weight.startswith("minilm:")]))
    size = st.integers(2, largest)
    d_in, d_out = draw(size), draw(size)
    made = like.but(
        d_in=d_in,
        d_out=d_out,
        rank=draw(st.integers(2, max(2, min(d_in, d_out, 32)))) if like.rank else None,
        alpha=draw(st.sampled_from([0.25, 3.0, 7.0, 48.0])) if like.alpha else None,
        bias=like.layer == "conv1d" or draw(st.booleans()),
        batch=tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))),
        weight=draw(st.sampled_from(SPECTRA)),
        state=draw(st.sampled_from(["init", "perturbed", *suite.formula.states, *(["own"] if suite.formula.gauge else [])])),
        mode=draw(st.sampled_from(["train", "eval"])),
        seed=draw(st.integers(0, 999)),
    )
    return suite.fit(made)


def at(trial: Trial, case: Case) -> list[Measurement]:
    """Output and gradients of one case."""
    once = replace(trial, measured=[], only=None)
    compare(once, [case], outputs=True)
    compare(once, [case], outputs=False)
    return once.measured


def worst(
    trial: Trial, *, examples: int, largest: int, seed: int | None = None, tried: list[Case] | None = None
) -> list[Measurement]:
    """The largest error of each quantity that was seen, or the smallest case that fails.

    seed: None for the same search every time. tried: gets every case that was measured.
    """
    seen: dict[str, Measurement] = {}

    def attempt(case: Case) -> None:
        assume(_can_run(trial, case))
        trial.at = case  # for what it may raise
        if tried is not None:
            tried.append(case)
        for m in at(trial, case):
            if m.verdict is Verdict.FAILS:
                seen["failed"] = m  # the last one is the smallest: it is shrunk
                raise _FoundError(m.what)
            if m.evidence and m.bound:
                target(m.error / m.bound, label=m.what)
                if m.what not in seen or m.error / m.bound > seen[m.what].error / seen[m.what].bound:
                    seen[m.what] = m

    search: Any = given(cases(trial.suite, largest))(attempt)
    if seed is not None:
        search = hypothesis.seed(seed)(search)
    searching = settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.target, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        searching(search)()
    except Unsatisfiable:  # one side refuses whatever was generated
        return []
    except _FoundError:
        return [seen["failed"]]
    return list(seen.values())


def _can_run(trial: Trial, case: Case) -> bool:
    inexact = trial.formula.unseen & dict(case.options).keys()  # a start of its own, which is no exact decomposition
    if case.state == "own" and (inexact or trial.truth.name != "closed form" or trial.is_among_references):
        return False
    refused = trial.truth.refuses(case) or trial.candidate.refuses(case)
    return not refused and unguarded(case, trial.formula) is None
