"""The page of times and memory: lite's layers beside peft's, beside the least that a method could take, and how they grow."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from conformance.bench import suites, tables
from conformance.bench.cell import VARIANTS, Cell
from conformance.bench.results import Timed, Times
from conformance.bench.suites import Suites
from conformance.bench.tables import LIMIT, PEFT, WIDE, Share, median, ratio
from conformance.report.markdown import bullets, section, table
from conformance.report.sections import made_with

FILE = "performance.md"
INTRODUCTION = """How fast are lite's layers, and how large? One step is the forward and the backward pass of one layer, with gradients of its input and of all that
trains. lite, peft, the bare base layer and its parts take turns in one process, so that all of them see the same machine; a cell is the median of
15 turns (of 5 where those take more than five seconds), a ratio the median of the turns' ratios. The *limit* is the bare layer plus the matrix products that the method cannot do without, by plain
calls of torch. PiSSA, OLoRA, EVA, CorDA and ASVD run LoRA's code and are not listed."""
HOW = f"""*Kept* counts the cells within the target: of peft's time 0.15 for HRA and 0.60 for DoRA; for all others not more than peft's beyond the noise, which is by how
much the bare layer differs from itself in that cell, or one run's ratio from another's, and at most 5 %. Beside the limit it is {LIMIT}, in layers at least {WIDE} wide. A missed target is *explained* where
it is out of reach, or kept, as soon as three more things are counted, all measured in the same turns: the passes over tensors that the method makes element by element, each timed as one
addition; the dispatch of its operations, timed on a layer of 64 × 64; and the layouts in which autograd multiplies thin factors, timed as these products alone, forward and backward."""
STEEPER = 0.05  # what the slopes of one layer differ by from run to run
GROWTH = """Slopes of the logarithm of the time: in d over square layers, in r from 8 to 64. None may be steeper in d than the bare layer's. The bare layer has no r; a method's
products are linear in it, which is a slope of 1 where nothing else took time."""
LEFT_OUT = """Cells in which a step is known or expected to take longer than a second of the bare layer, or ten of peft's (in 4096 × 4096, one)."""
SUITES = """Seconds of whole processes, and where they go. Building (cases with their numbers, layers) and running are the layers' own; comparing is everything else inside of a check; overhead is
what is neither imports nor layers."""
FORMS = {
    "hra": "A product of reflections is I − Vᵀ T V (compact WY), so x (H_1 … H_r) = x − ((x Vᵀ) Tᵀ) V: thin products instead of a d_in × d_in matrix and its product with W. "
    "T is the inverse of an r × r triangle that holds the rows' scalar products; it is solved in float64 and never formed, so that nearly parallel rows keep their digits. "
    "The gradient of V Vᵀ is one product with V instead of two, since its second half is the first's transpose.",
    "dora": "‖W_i + s·b_i A‖² = ‖W_i‖² + 2s·b_i·(A W_iᵀ) + s²·b_i (A Aᵀ) b_iᵀ needs no dense BA; rows that cancel are computed in full. "
    "With o = x Wᵀ + b + s·(x Aᵀ) Bᵀ the layer is (m/n) ∘ o + (1 − m/n) ∘ b, so the base layer's output is used as it is, without a second product with W. "
    "That needs b to take few of the digits of o, which 64 tokens tell; else x Wᵀ is computed again.",
    "delora": "The frozen norms are folded into A, (r, d_in), instead of multiplying x, (tokens, d_in). "
    "λ and the norms of the factors' columns are r numbers, which multiply the thin product. "
    "Nothing of the size of the layer's output is formed but the update itself.",
    "road": "The gains of the 2 × 2 turns are laid out once as vectors along the outputs, so that the products run along whole rows. "
    "The partner of each output comes by rolling each group by half of its length; its sign is in the gain. "
    "The sum is taken in place.",
}


def page(times: Times) -> str:
    """In markdown; empty if no layer was timed yet."""
    own = tables.by_variant(times.cells)
    if not own:
        return ""
    order = [name for name in VARIANTS if name in own]
    return (
        "\n\n".join(
            [
                "# Performance",
                INTRODUCTION,
                _table({name: own[name] for name in order}),
                "![lite's time over peft's](plots/performance-ratio.svg)",
                HOW,
                section("Missed targets", bullets([line for name in order for line in _missed(name, own[name])], "None.")),
                section("Growth", GROWTH, _growth({name: own[name] for name in order}), "![growth](plots/performance-growth.svg)"),
                section(
                    "Memory",
                    "The most bytes of tensors that live at once in a step, beyond what is there before it, counted: the same on every machine.",
                    "![memory](plots/performance-memory.svg)",
                ),
                section("Fast forms", *(f"**{name}**. {FORMS[name]}" for name in order if name in FORMS)),
                section(
                    "Not measured",
                    LEFT_OUT,
                    bullets(_left_out(times.cells), "Nothing of the grid."),
                    _without_bfloat16(times.cells),
                ),
                *([section("The suites", SUITES, _suites(times.suites))] if times.suites else []),
                section(
                    "Reproduce",
                    "`nox -s bench`, layers once more with `-- layers --again`; then `nox -s report`.",
                    _machines(times),
                ),
            ]
        )
        + "\n"
    )


def _table(own: dict[str, list[Timed]]) -> str:
    header = [
        "method", "cells", "runs", "× peft: median", "best … worst", "kept", "between runs", "× limit: median", "worst", "kept", "memory × peft: worst",
    ]  # fmt: skip
    rows = []
    for name, cells in own.items():
        ratios = sorted(ratio(timed, "peft") for timed in cells)
        wide = [ratio(timed, "limit") for timed in tables.wide(cells)]
        near = tables.beside_limit(cells)
        runs = sorted({len(timed.runs) for timed in cells})
        rows.append(
            [
                name, str(len(cells)), "–".join(map(str, runs)), f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} … {ratios[-1]:.2f}",
                _kept(tables.beside_peft(name, cells)), f"± {100 * (tables.spread(cells) - 1) / 2:.1f} %" if runs[-1] > 1 else "–",
                f"{statistics.median(wide):.2f}" if wide else "–", f"{near.value:.2f}" if wide else "–", _kept(near),
                f"{tables.beside_memory(cells).value:.2f}",
            ]
        )  # fmt: skip
    return table(header, rows)


def _kept(share: Share) -> str:
    more = f", {share.explained} more explained" if share.explained else ""
    return f"{share.reached} of {share.cells}{more}" if share.cells else "–"


def _missed(name: str, cells: Sequence[Timed]) -> list[str]:
    lines = []
    against, near, large = tables.beside_peft(name, cells), tables.beside_limit(cells), tables.beside_memory(cells)
    if against.worst and against.reached < against.cells:
        target = f"{PEFT[name]:.2f} of peft's time" if name in PEFT else "peft's time"
        limit = median(against.worst, lambda run: tables.limit(run) / run.seconds["peft"])
        least = median(against.worst, lambda run: tables.least(run) / run.seconds["peft"])
        lines.append(
            f"**{name}**, {target}: {_share(against)}; farthest at {tables.name(against.worst.cell)} with {against.value:.2f}, "
            f"where the limit takes {limit:.2f}, all that is counted {least:.2f}, and the noise is {100 * tables.noise(against.worst):.0f} %"
        )
    if near.worst and near.reached < near.cells:
        lines.append(
            f"**{name}**, {LIMIT} of the limit: {_share(near)}; farthest at {tables.name(near.worst.cell)} with {near.value:.2f}, "
            f"beside all that is counted {tables.beside_least(near.worst):.2f}"
        )
    if large.worst and large.reached < large.cells:
        lines.append(
            f"**{name}**, peft's memory: {_share(large)}; farthest at {tables.name(large.worst.cell)} with {large.value:.2f}"
        )
    mine, bare = (tables.exponents(cells, side).get("d", 0.0) for side in ("lite", "bare"))
    if mine > bare + STEEPER:
        lines.append(f"**{name}**, no steeper in d than the bare layer: {mine:.2f}, the bare layer {bare:.2f}")
    return lines


def _share(share: Share) -> str:
    return f"missed in {share.cells - share.reached} of {share.cells} cells, {share.explained} of them explained"


def _growth(own: dict[str, list[Timed]]) -> str:
    rows = []
    for name, cells in own.items():
        slopes = {side: tables.exponents(cells, side) for side in ("lite", "peft", "bare")}
        rows.append([name, *(f"{slopes[side][of]:.2f}" if of in slopes[side] else "–" for of, side in COLUMNS)])
    return table(["method", *(f"{side}, in {of}" for of, side in COLUMNS)], rows)


COLUMNS = [("d", "lite"), ("d", "peft"), ("d", "bare"), ("r", "lite"), ("r", "peft")]


def _left_out(found: Sequence[Timed]) -> list[str]:
    slow = [timed.cell for timed in found if not timed.runs]
    kinds = dict.fromkeys((cell.variant, cell.dtype) for cell in slow)
    return [f"{name}, {dtype}: {_sizes([cell for cell in slow if (cell.variant, cell.dtype) == (name, dtype)])}" for name, dtype in kinds]  # fmt: skip


def _sizes(left_out: Sequence[Cell]) -> str:
    """How many cells, and the smallest layers among them."""
    smallest = [cell for cell in left_out if not any(other.is_within(cell) for other in left_out)]
    names = dict.fromkeys(tables.name(cell).partition(f", {cell.dtype}")[0] for cell in smallest)  # whatever the threads
    return f"{len(left_out)} cells, from {'; '.join(names)}"


def _without_bfloat16(found: Sequence[Timed]) -> str:
    """What bfloat16 costs here: a processor that cannot multiply it makes every product many times slower."""
    seconds = {timed.cell: median(timed, lambda run: run.seconds["bare"]) for timed in found if timed.runs}
    factors = [
        time / seconds[wide]
        for cell, time in seconds.items()
        if cell.dtype == "bfloat16" and (wide := replace(cell, dtype="float32")) in seconds
    ]
    return (
        f"The bare layer takes {statistics.median(factors):.1f} times as long in bfloat16 as in float32 here, in the median of the cells that have both."
        if factors
        else ""
    )


def _suites(found: Suites) -> str:
    header = ["command", "median s", *suites.PHASES, "overhead", "largest process"]
    return table(header, suites.rows(found)) + f"\n\nTwo processes reach {found.efficiency:.0%} of twice the speed of one."


def _machines(times: Times) -> str:
    return "  \n".join(dict.fromkeys(made_with(timed.machine) for timed in times.cells))
