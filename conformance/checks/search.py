"""Search for the case with the largest error: hypothesis draws shapes, ranks, spectra and options, and climbs towards the worst."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, assume, given, settings, target
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from conformance.checks.function import compare
from conformance.guards import unguarded
from conformance.suite import Suite
from conformance.trial import Trial
from conformance.verdict import Measurement
from refs.case import Case

SPECTRA = ("random", "decay", "gap", "flat", "deficient")
SCALES = (1.0, 1e-3, 1e-2, 1e-1, 1e1, 1e2, 1e3)
BATCH = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)
SPLITS = 256  # layers this large are split between threads, smaller ones hardly


@st.composite
def octaves(draw: Callable[[st.SearchStrategy[Any]], Any], largest: int) -> int:
    """Sizes from 1 to `largest`, as many below 16 as above. Small draws: hypothesis picks large ones from constants of loaded modules."""
    octave = draw(st.integers(0, largest.bit_length() - 1))
    digits = st.integers(0, 30)
    size: int = 2**octave + (31 * draw(digits) + draw(digits)) % 2**octave
    return min(size, largest)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What cases are drawn from.

    size: of d_in and d_out. rank: the least; the guards against rank 1 are dropped if it is that.
    scales: of weight, bias and input. batch: leading shapes of x. threads: of torch, for layers that are large enough to be split.
    """

    size: st.SearchStrategy[int]
    rank: int = 2
    scales: tuple[float, ...] = (1.0,)
    threads: tuple[int, ...] = (1,)
    batch: st.SearchStrategy[tuple[int, ...]] = BATCH


# A single token is drawn often enough for the few examples of a sweep.
SWEEP = Space(size=st.integers(2, 40), batch=st.one_of(st.just((1,)), BATCH))


def everything(largest: int) -> Space:
    """All sizes up to `largest` with their edges, scales and threads."""
    return Space(size=octaves(largest), rank=1, scales=SCALES, threads=(1, 2))


class _FoundError(Exception):
    """A case that fails."""


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any], suite: Suite, space: Space) -> Case:
    """A case like one of the suite's: its kind of layer, its options and those of another one, but any other shape, rank, spectrum, scale, state and mode."""
    small = st.sampled_from(suite.small.cases)
    like = draw(small)
    d_in, d_out = draw(space.size), draw(space.size)
    scale = st.sampled_from(space.scales)
    made = like.but(
        d_in=d_in,
        d_out=d_out,
        rank=draw(st.integers(space.rank, max(space.rank, min(d_in, d_out, 32)))) if like.rank else None,
        alpha=draw(st.sampled_from([0.25, 3.0, 7.0, 48.0])) if like.alpha else None,
        bias=like.layer == "conv1d" or draw(st.booleans()),
        batch=draw(space.batch),
        weight=draw(st.sampled_from(SPECTRA)),
        scales=(draw(scale), draw(scale), draw(scale)),
        state=draw(st.sampled_from(["init", "perturbed", *suite.formula.states, *(["own"] if suite.formula.gauge else [])])),
        mode=draw(st.sampled_from(["train", "eval"])),
        seed=draw(st.integers(0, 99)),
    )
    other = draw(small)
    made = made.but(options=other.options, data=like.data or other.data)
    if max(d_in, d_out) >= SPLITS:
        made = made.but(threads=draw(st.sampled_from(space.threads)))
    return suite.fit(made)


def at(trial: Trial, case: Case) -> list[Measurement]:
    """Output and gradients of one case, with or without guards."""
    once = replace(trial, measured=[], only=None)
    compare(once, [case], outputs=True, guarded=False)
    compare(once, [case], outputs=False, guarded=False)
    return once.measured


def worst(trial: Trial, space: Space, *, examples: int, seed: str = "sweep", tried: list[Case] | None = None) -> list[Measurement]:
    """The largest error of each quantity that was seen, or the first of the smallest case that fails or raises.

    seed: the same one draws the same cases. tried: gets every case that was measured.
    """
    seen: dict[str, Measurement] = {}

    def attempt(case: Case) -> None:
        measured = _measured(trial, space, case)
        assume(measured is not None)
        if tried is not None and "failed" not in seen:  # what follows is shrinking
            tried.append(case)
        highest: dict[str, float] = {}
        for m in measured or ():
            if m.verdict.is_red:
                seen["failed"] = m  # the last one is the smallest: it is shrunk
                raise _FoundError(m.what)
            if m.evidence and m.bound:
                highest[m.what] = max(m.ratio, highest.get(m.what, 0.0))
                if m.what not in seen or m.ratio > seen[m.what].ratio:
                    seen[m.what] = m
        for what, ratio in highest.items():
            target(ratio, label=what)

    search: Any = hypothesis.seed(seed)(given(cases(trial.suite, space))(attempt))
    searching = settings(
        max_examples=examples,
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


def _measured(trial: Trial, space: Space, case: Case) -> list[Measurement] | None:
    """What one case measures, an exception included; None if it cannot be asked."""
    try:
        return at(trial, case) if _can_run(trial, space, case) else None
    except Exception as error:  # a candidate may raise anything
        once = replace(trial, measured=[], at=case)
        once.raised(error)
        return once.measured


def _can_run(trial: Trial, space: Space, case: Case) -> bool:
    inexact = trial.formula.unseen & dict(case.options).keys()  # a start of its own, which is no exact decomposition
    if case.state == "own" and (inexact or trial.truth.name != "closed form" or trial.is_among_references):
        return False
    refused = trial.truth.refuses(case) or trial.candidate.refuses(case)
    return not refused and unguarded(case, trial.formula, edges=space.rank == 1) is None
