"""Plots of times and memory."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conformance.bench import tables
from conformance.bench.cell import VARIANTS, Cell
from conformance.bench.results import Timed
from conformance.bench.tables import PEFT, median, ratio
from conformance.report.plot import COLORS

SHOWN = {"tokens": 512, "dtype": "float32", "threads": 1, "device": "cpu"}  # of the plot of growth, with rank 8
SIDES = {"bare": "#999999", "lite": "#1f77b4", "peft": "#d95f02"}


def plots(found: Sequence[Timed]) -> dict[str, str]:
    """File → SVG; nothing if nothing was timed."""
    own = tables.by_variant(found)
    names = [name for name in VARIANTS if name in own]
    if not names:
        return {}
    return {
        "performance-ratio.svg": _drawn("ratio", lambda figure: _ratios(figure.subplots(), own, names)),
        "performance-growth.svg": _drawn("growth", lambda figure: _growth(figure, own, names)),
        "performance-memory.svg": _drawn("memory", lambda figure: _memory(figure.subplots(), own, names)),
    }


def _drawn(salt: str, draw: Callable[[Figure], None]) -> str:
    settings: Any = {"svg.hashsalt": salt, "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _ratios(axes: Axes, own: dict[str, list[Timed]], names: Sequence[str]) -> None:
    _scatter(axes, own, names, lambda timed: ratio(timed, "peft"))
    for place, name in enumerate(names):
        axes.plot([place - 0.45, place + 0.45], [PEFT.get(name, 1.0)] * 2, color="#c00000", linewidth=1)
    axes.set(title="time of a step: lite / peft, a dot for each cell; red: the target", ylabel="of peft's time")


def _memory(axes: Axes, own: dict[str, list[Timed]], names: Sequence[str]) -> None:
    _scatter(axes, own, names, tables.memory)
    axes.axhline(1.0, color="#c00000", linewidth=1)
    axes.set(title="peak memory of a step: lite / peft, a dot for each cell; red: the target", ylabel="of peft's bytes")


def _scatter(axes: Axes, own: dict[str, list[Timed]], names: Sequence[str], value: Callable[[Timed], float]) -> None:
    for dtype in dict.fromkeys(timed.cell.dtype for name in names for timed in own[name]):
        points = [
            (place - 0.4 + 0.8 * i / len(own[name]), value(timed))
            for place, name in enumerate(names)
            for i, timed in enumerate(own[name])
            if timed.cell.dtype == dtype
        ]
        axes.scatter([x for x, _ in points], [y for _, y in points], s=9, color=COLORS[dtype], alpha=0.7, linewidths=0, label=dtype)
    axes.set_yscale("log", base=2)
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="y", alpha=0.2)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)


def _growth(figure: Figure, own: dict[str, list[Timed]], names: Sequence[str]) -> None:
    drawn = {name: cells for name in names if (cells := [timed for timed in own[name] if _is_drawn(timed.cell)])}
    columns = max((len(drawn) + 1) // 2, 1)
    panels = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, (name, cells) in zip(panels, drawn.items(), strict=False):
        for side, color in SIDES.items():
            times = [median(timed, lambda run, side=side: run.seconds[side]) for timed in cells]  # type: ignore[misc]
            axes.plot([timed.cell.d_in for timed in cells], times, "o-", color=color, markersize=3, linewidth=1, label=side)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.grid(alpha=0.2)
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    figure.axes[0].legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, frameon=False)
    figure.suptitle("seconds of a step by d: square layers, 512 tokens, r = 8, float32, 1 thread")


def _is_drawn(cell: Cell) -> bool:
    return cell.d_in == cell.d_out and cell.rank in (0, 8) and all(getattr(cell, key) == value for key, value in SHOWN.items())
