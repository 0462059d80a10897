"""Random starts: whether numbers may come from a distribution."""

import math

import torch
from torch import Tensor

from conformance import policy
from conformance.policy import Judgement
from conformance.trial import Trial
from conformance.verdict import Verdict
from refs.formula import Drawn, Normal, Uniform

SIGMAS = 6.1  # a sample's variance is this many standard deviations off once in a billion
REDRAWN = 8.0  # roundings of a float32 draw
KOLMOGOROV = 3.3  # √n times the distance of two distributions exceeds this once in a billion


def follows(values: list[Tensor], init: Uniform | Normal | Drawn) -> Judgement:
    """Whether the values may come from the distribution: its bounds, its variance, and Kolmogorov's distance; of the
    rows that have copies, one each.
    """
    copies = getattr(init, "copies", 1)
    drawn = [value[::copies] if copies > 1 else value for value in values]
    copied = copies == 1 or all(value.equal(one.repeat_interleave(copies, dim=0)) for value, one in zip(values, drawn, strict=True))
    ordered = torch.cat([value.double().flatten() for value in drawn]).sort().values
    n, spread = len(ordered), float((ordered - getattr(init, "mean", 0.0)).square().mean().sqrt())
    cumulative: Tensor | None
    match init:
        case Uniform(bound):
            cumulative = ((ordered / bound + 1) / 2).clamp(0, 1)
            words, std, kurtosis = f"uniform within ±{bound:.4g}", bound / math.sqrt(3), 9 / 5
            words += f", every row {copies} times" if copies > 1 else ""
            outside = float(ordered.abs().max()) > bound * (1 + 2.0**-20)
        case Normal(std, mean=mean):
            cumulative = (1 + torch.erf((ordered - mean) / (std * math.sqrt(2)))) / 2
            words, kurtosis, outside = f"normal with standard deviation {std:.4g}", 3.0, False
            words += f" around {mean:.4g}" if mean else ""
        case Drawn(std=std):
            cumulative, outside = None, False  # only its spread is known; five covers an orthonormal mix of half as many normals
            words, kurtosis = f"random with root mean square {std:.4g}", 5.0
    distance = 0.0 if cumulative is None else _kolmogorov(cumulative)
    deviation = abs((spread / std) ** 2 - 1) / math.sqrt((kurtosis - 1) / n)  # in standard deviations of a sample's variance
    wrong = outside or not copied or deviation > SIGMAS or any(tuple(value.shape) != init.shape for value in values)
    got = f"{tuple(values[0].shape)} within ±{float(ordered.abs().max()):.4g}, standard deviation {spread:.4g}"
    got += "" if copied else ", rows without copies"
    verdict = Verdict.FAILS if wrong or distance > KOLMOGOROV else Verdict.EQUIVALENT
    return Judgement(verdict, distance, KOLMOGOROV, "√n·D", got, f"{init.shape} {words}")


def _kolmogorov(cumulative: Tensor) -> float:
    """√n times the distance of a sorted sample from its distribution."""
    n = len(cumulative)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * float(torch.maximum((cumulative - steps[:-1]).abs(), (cumulative - steps[1:]).abs()).max())


def same_draw(trial: Trial, value: Tensor, other: Tensor) -> Judgement:
    """Bit for bit the same; a recorded reference's may have been rounded otherwise, on another processor."""
    judged = policy.same_bits(value, other)
    if judged.verdict is Verdict.FAILS and trial.truth.is_fixed and value.shape == other.shape and value.dtype == other.dtype:
        error = policy.distance(value, other) / policy.U32
        if error <= REDRAWN:
            return Judgement(
                Verdict.EQUIVALENT,
                error,
                REDRAWN,
                "u32",
                reason="recorded on another processor, which rounds random numbers otherwise",
            )
    return judged
