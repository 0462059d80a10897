"""The error plot of a variant: every measurement beside its bound, per tensor and dtype."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conformance.policy import QUALITY_MAX, QUALITY_NORM, RATIO
from conformance.report.summary import Summary
from conformance.verdict import Measurement

FLOOR = 2.0**-6  # where bit-for-bit agreement is drawn
COLORS = {"float64": "#333333", "float32": "#1f77b4", "bfloat16": "#d95f02", "float16": "#7b3294", "bfloat16+float32": "#1b9e77"}


def svg(summary: Summary) -> str:
    """Left: float64 errors in u64 with the bound of each. Right: errors below float64 as multiples of the reference's own."""
    own = [m for m in summary.measured if m.reference != "itself"]
    exact = [m for m in own if m.unit == "u64" and m.bound > 0 and m.check in ("forward", "gradients", "dropout")]
    coarse = [m for m in own if m.unit == RATIO]
    settings: Any = {"svg.hashsalt": summary.variant, "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        _float64(left, exact)
        _ratios(right, coarse)
        figure.suptitle(f"{summary.variant}: every measurement and its bound; on the bottom line, bit for bit the same")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _float64(axes: Axes, measurements: Sequence[Measurement]) -> None:
    names = _tensors(measurements)
    for place, name in enumerate(names):
        own = [m for m in measurements if m.what == name]
        axes.scatter(_spread(place, own), [max(m.error, FLOOR) for m in own], s=9, color=COLORS["float64"], alpha=0.6, linewidths=0)
        low, high = min(m.bound for m in own), max(m.bound for m in own)
        axes.fill_between([place - 0.4, place + 0.4], low, high, color="#c00000", alpha=0.25, linewidth=1.5)
    axes.set(title="float64: error in u64; red: the range of the bounds", ylabel="relative error / 2⁻⁵³")
    _finish(axes, names)


def _ratios(axes: Axes, measurements: Sequence[Measurement]) -> None:
    names = _tensors(measurements)
    for dtype, color in COLORS.items():
        own = [m for m in measurements if m.case_id.endswith(f"-{dtype}")]
        if own:
            xs = [x for place, name in enumerate(names) for x in _spread(place, [m for m in own if m.what == name])]
            ys = [max(m.error, FLOOR) for name in names for m in own if m.what == name]
            axes.scatter(xs, ys, s=9, color=color, alpha=0.6, linewidths=0, label=dtype)
    for bound, style in ((QUALITY_NORM, "-"), (QUALITY_MAX, "--")):
        axes.axhline(bound, color="#c00000", linestyle=style, linewidth=1)
    axes.set(title="below float64: error / the reference's error; red: the bounds")
    _finish(axes, names)
    if measurements:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)


def _finish(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yscale("log", base=2)
    axes.set_ylim(bottom=FLOOR / 2)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.grid(axis="y", alpha=0.2)


def _tensors(measurements: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(m.what for m in measurements))


def _spread(place: int, measurements: Sequence[Measurement]) -> list[float]:
    """Side by side within the tensor's column, in the order of the cases."""
    count = max(len(measurements) - 1, 1)
    return [place - 0.35 + 0.7 * i / count for i in range(len(measurements))]
