"""What the suites of methods in a weight's singular basis share."""

from collections.abc import Iterable, Mapping
from typing import Any

from conformance.suite import within_rank
from refs.case import Case

SEED = 11  # data with which the largest components, those by rms and those by mean_abs are three different sets


def selected(case: Case, other: str = "mean_abs", **together: Any) -> tuple[Case, ...]:
    """Components chosen by data, pooled in both ways, and once beside other options. other: way of pooling than the default."""
    pools: tuple[dict[str, Any], ...] = ({}, {"act_pool": other}, {"act_pool": other} | together)
    return tuple(case.but(data="padded", seed=SEED, options=options) for options in pools)


def recorded(folder: str, rows: Iterable[tuple[int, Mapping[str, Any]]], data: str = "") -> tuple[Case, ...]:
    """The cases of lora-lite's recordings in a folder: a number and the options it was recorded with. data: as in `grid`."""
    return tuple(
        Case(
            d_in=16 if number == 1 else 24,
            d_out=24 if number == 1 else 16,
            rank=8,
            bias=number == 1,
            batch=(2, 5),
            weight=f"recorded:lora_lite/{folder}/vec_{number}",
            data=data,
            options=tuple(options.items()),
        )
        for number, options in rows
    )


def part_of_rank(option: str, case: Case, *, default: int, least: int = 1) -> Case:
    """The nearest case whose rank the weight has, with an option that has to stay below the rank at two thirds of it.

    default: of the option; what is the default is left out. least: the smallest rank that has room for the option.
    """
    fitting = within_rank(case.but(d_in=max(case.d_in, least), d_out=max(case.d_out, least), rank=max(case.rank or 0, least)))
    part = max(2 * (fitting.rank or 0) // 3, 1)
    return fitting.without(option) if part == default else fitting.but(options={option: part})
