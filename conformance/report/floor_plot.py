"""The plot of a variant's detection floors: the smallest error that is seen, per tensor and kind of fault."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from conformance.floor import GOALS, SMALLEST, Floor
from conformance.report.plot import COLORS

MARKERS = {"scale": "o", "row": "s", "element": "^", "sign": "x"}


def svg(variant: str, floors: Sequence[Floor]) -> str:
    """One column per tensor; a mark per reference, dtype and kind of fault; lines at the goals."""
    settings: Any = {"svg.hashsalt": variant, "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        axes = figure.subplots()
        names = list(dict.fromkeys(floor.tensor for floor in floors))
        kinds = list(MARKERS)
        for floor in floors:
            if floor.size is not None and floor.size > 2.0**SMALLEST:
                x = names.index(floor.tensor) + (kinds.index(floor.kind) - 1.5) / 5
                axes.plot(x, floor.size, MARKERS[floor.kind], color=COLORS[floor.dtype], markersize=4, alpha=0.7)
        for kind, goal in GOALS.items():
            axes.axhline(goal, color="#c00000", linewidth=1, label=f"goal, float64, {kind}: {goal:g}")
        for kind, marker in MARKERS.items():
            axes.plot([], [], marker, color="#333333", markersize=4, label=kind)
        for dtype in dict.fromkeys(floor.dtype for floor in floors):
            axes.plot([], [], "o", color=COLORS[dtype], markersize=4, label=dtype)
        axes.set_yscale("log")
        axes.set_xticks(range(len(names)), names)
        axes.set(title=f"{variant}: the smallest error that turns the verdict, against each reference", ylabel="relative error")
        axes.grid(axis="y", alpha=0.2)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
