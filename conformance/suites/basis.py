"""What the suites of methods in a weight's singular basis share."""

from collections.abc import Iterable, Mapping
from typing import Any

from refs.case import Case

SEED = 11  # data with which the largest components, those by rms and those by mean_abs are three different sets


def selected(case: Case, other: str = "mean_abs") -> tuple[Case, ...]:
    """Components chosen by data, pooled in both ways. other: than the default."""
    return tuple(case.but(data="padded", seed=SEED, options=options) for options in ({}, {"act_pool": other}))


def recorded(folder: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Case, ...]:
    """The cases of lora-lite's recordings in a folder: a number and the options it was recorded with."""
    return tuple(
        Case(
            d_in=16 if number == 1 else 24,
            d_out=24 if number == 1 else 16,
            rank=8,
            bias=number == 1,
            batch=(2, 5),
            weight=f"recorded:lora_lite/{folder}/vec_{number}",
            options=tuple(options.items()),
        )
        for number, options in rows
    )
