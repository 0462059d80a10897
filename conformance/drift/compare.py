"""Two releases beside each other: whose numbers changed, by how much, and on which case."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from conformance.drift.recorded import Release
from conformance.verdict import rounded_up


@dataclass(frozen=True, slots=True)
class Change:
    """The largest of one variant and one quantity between a release and the one before.

    what: "start of lora_A", "output", "grad.x", "merged weight", "unmerged weight", or a part that was raised in one of them.
    size: relative difference, rounded up, or the exception. case: the id of the case that shows it most. cases: how many show it.
    """

    before: str
    after: str
    variant: str
    reference: str
    what: str
    size: str
    case: str
    cases: int


def changes(before: Release, after: Release) -> Iterator[Change]:
    """What both have and is not the same bit for bit, and what only one can do."""
    found: dict[tuple[str, str, str], list[tuple[float, str, str]]] = {}
    for name in sorted(before.numbers.keys() & after.numbers.keys()):
        if not _same(before.numbers[name], after.numbers[name]):
            _add(found, name, difference := _difference(before.numbers[name], after.numbers[name]), rounded_up(difference))
    for name in sorted(before.numbers.keys() ^ after.numbers.keys()):
        if _ran(before, name) and _ran(after, name):
            _add(found, name, float("inf"), "gone" if name in before.numbers else "new")
    for name, reason in sorted(before.raised.items()):
        if name not in after.raised and _has(after, name):
            _add(found, name, float("inf"), f"raised {reason}; works now")
    for name, reason in sorted(after.raised.items()):
        if name not in before.raised and _has(before, name):
            _add(found, name, float("inf"), f"raises {reason} now")
    for (variant, reference, what), seen in found.items():
        _, size, case = max(seen, key=lambda one: one[0])
        yield Change(before.version, after.version, variant, reference, what, size, case, len(seen))


def _add(found: dict[tuple[str, str, str], list[tuple[float, str, str]]], name: str, difference: float, size: str) -> None:
    variant, reference, case, what = name.split("|")
    found.setdefault((variant, reference, what), []).append((difference, size, case))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.equal(other)


def _difference(one: Tensor, other: Tensor) -> float:
    """Relative to the larger of the two; infinite for other shapes."""
    if one.shape != other.shape:
        return float("inf")
    scale = max(float(one.double().norm()), float(other.double().norm()))
    return float((one.double() - other.double()).norm()) / scale if scale else 0.0


def _ran(release: Release, name: str) -> bool:
    """Whether a release computed this case of this layer without raising anything."""
    layer = name.rpartition("|")[0]
    return _has(release, name) and not any(key.startswith(f"{layer}|") for key in release.raised)


def _has(release: Release, name: str) -> bool:
    """Whether a release has this case of this layer at all."""
    layer = name.rpartition("|")[0]
    return any(key.startswith(f"{layer}|") for key in (*release.numbers, *release.raised))
