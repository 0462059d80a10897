"""What the times come to, per method: beside peft, beside the limit, in memory, and how they grow."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from conformance.bench.cell import Cell
from conformance.bench.results import Run, Timed

PEFT = {"hra": 0.15, "dora": 0.60}  # of peft's time; all others: not slower, beyond the noise
LIMIT, WIDE = 1.15, 1024  # of the limit, for layers at least so wide
NOISIEST = 0.05  # beyond it a cell excuses nothing


@dataclass(frozen=True, slots=True)
class Share:
    """How many cells reach a target, which one is farthest from it, and why those that do not, could not."""

    reached: int
    cells: int
    worst: Timed | None
    value: float
    explained: int


def median(timed: Timed, of: Callable[[Run], float]) -> float:
    """Over the runs of a cell."""
    return statistics.median(map(of, timed.runs))


def ratio(timed: Timed, to: str) -> float:
    """Of lite's time to another's."""
    return median(timed, lambda run: run.ratios[to][0])


def memory(timed: Timed) -> float:
    """lite's peak over peft's."""
    return median(timed, lambda run: run.bytes["lite"] / run.bytes["peft"])


def limit(run: Run) -> float:
    """Seconds of the bare layer and the method's products."""
    return (run.seconds["bare"] + run.seconds["again"]) / 2 + run.seconds["products"]


def noise(timed: Timed) -> float:
    """By how much times differ that should not: the bare layer's from its own, in the worse quartile, or the runs' ratios to peft, by half of their range."""
    own = median(timed, lambda run: max(abs(value - 1) for value in run.ratios["noise"]))
    ratios = [run.ratios["peft"][0] for run in timed.runs]
    return max(own, (max(ratios) - min(ratios)) / 2)


def by_variant(found: Iterable[Timed]) -> dict[str, list[Timed]]:
    """The measured cells of each method."""
    grouped: dict[str, list[Timed]] = {}
    for timed in found:
        if timed.runs:
            grouped.setdefault(timed.cell.variant, []).append(timed)
    return grouped


def beside_peft(variant: str, own: Sequence[Timed]) -> Share:
    """The target against peft. Explained: where the least that lite's operations take is more than the target."""
    target = PEFT.get(variant)

    def is_reached(timed: Timed) -> bool:
        return ratio(timed, "peft") <= (1 + min(noise(timed), NOISIEST) if target is None else target)

    def is_explained(timed: Timed) -> bool:
        return target is not None and median(timed, lambda run: least(run) / run.seconds["peft"]) > target

    return _share(own, is_reached, is_explained, lambda timed: ratio(timed, "peft"))


def beside_limit(own: Sequence[Timed]) -> Share:
    """The target against the limit. Explained: where it is kept beside the least that lite's operations take."""

    def is_explained(timed: Timed) -> bool:
        return beside_least(timed) <= LIMIT

    return _share(wide(own), lambda timed: ratio(timed, "limit") <= LIMIT, is_explained, lambda timed: ratio(timed, "limit"))


def wide(own: Sequence[Timed]) -> list[Timed]:
    """The cells that have a target beside the limit."""
    return [timed for timed in own if min(timed.cell.d_in, timed.cell.d_out) >= WIDE]


def least(run: Run) -> float:
    """Seconds of the limit with the products as autograd makes them, the passes and the dispatch."""
    layouts = max(run.seconds.get("layouts", 0.0) - run.seconds["products"], 0.0)
    return limit(run) + layouts + run.seconds["passes"] + run.seconds["dispatch"]


def beside_least(timed: Timed) -> float:
    """lite's time over that."""
    return median(timed, lambda run: run.seconds["lite"] / least(run))


def beside_memory(own: Sequence[Timed]) -> Share:
    """Never more than peft."""
    return _share(own, lambda timed: memory(timed) <= 1, lambda timed: False, memory)


def _share(
    own: Sequence[Timed],
    is_reached: Callable[[Timed], bool],
    is_explained: Callable[[Timed], bool],
    value: Callable[[Timed], float],
) -> Share:
    missed = [timed for timed in own if not is_reached(timed)]
    worst = max(missed or own, key=value, default=None)
    return Share(
        len(own) - len(missed), len(own), worst, value(worst) if worst else 0.0, sum(is_explained(timed) for timed in missed)
    )


def exponents(own: Sequence[Timed], side: str) -> dict[str, float]:
    """Of the time of square layers in d, over all of their sizes, and of lite's in r: slopes of logarithms, the median over the other settings."""
    seconds = {timed.cell: median(timed, lambda run: run.seconds[side]) for timed in own}
    found: dict[str, list[float]] = {"d": [], "r": []}
    squares = [cell for cell in seconds if cell.d_in == cell.d_out]
    for cell in squares:
        sizes = [other for other in squares if replace(other, d_in=cell.d_in, d_out=cell.d_out) == cell]
        if cell == min(sizes) and len(sizes) > 1:
            found["d"].append(_slope([(other.d_in, seconds[other]) for other in sizes]))
    for cell in seconds:
        ranks = [other for other in seconds if replace(other, rank=cell.rank) == cell]
        if cell == min(ranks) and len(ranks) > 1:
            found["r"].append(_slope([(other.rank, seconds[other]) for other in ranks]))
    return {name: statistics.median(slopes) for name, slopes in found.items() if slopes}


def _slope(points: Sequence[tuple[float, float]]) -> float:
    return statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope


def spread(own: Sequence[Timed]) -> float:
    """By how much the runs' ratios to peft differ, of the largest to the smallest; the median over the cells. 1 with one run."""
    return statistics.median(
        max(run.ratios["peft"][0] for run in timed.runs) / min(run.ratios["peft"][0] for run in timed.runs) for timed in own
    )


def terminal(found: Sequence[Timed]) -> Table:
    """A row for each method."""
    made = Table(
        "method", "cells", "× peft: median", "best … worst", "target kept in", f"× limit, d ≥ {WIDE}: worst", f"≤ {LIMIT} in", "memory × peft: worst",
        title="forward and backward of one layer",
    )  # fmt: skip
    for variant, own in by_variant(found).items():
        ratios = sorted(ratio(timed, "peft") for timed in own)
        kept, near, small = beside_peft(variant, own), beside_limit(own), beside_memory(own)
        made.add_row(
            variant, str(len(own)), f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} … {ratios[-1]:.2f}", f"{kept.reached}",
            f"{near.value:.2f}" if near.cells else "–", f"{near.reached} of {near.cells}", f"{small.value:.2f}",
        )  # fmt: skip
    return made


def name(cell: Cell) -> str:
    """A cell in words."""
    rank = f", r = {cell.rank}" if cell.rank else ""
    where = cell.device if cell.device != "cpu" else f"{cell.threads} thread{'s' * (cell.threads > 1)}"
    return f"{cell.d_in} → {cell.d_out}, {cell.tokens} tokens{rank}, {cell.dtype}, {where}"
