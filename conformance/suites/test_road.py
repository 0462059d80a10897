"""RoAd against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.road import ROAD
from refs import road
from refs.case import Case

OPTIONS: list[dict[str, Any]] = [
    {"group_size": 8},
    *({"road_variant": name, "group_size": g} for name in ("road_2", "road_4") for g in (4, 8)),
]


def grouped(case: Case) -> Case:
    """Small layers in groups of 4, unless the case says otherwise; the pretrained ones in the default groups."""
    if case.weight.startswith("minilm:"):
        return case
    size = case.option("group_size", 4)
    return case.but(d_out=max(1, case.d_out // size) * size, options={"group_size": size})


SUITE = Suite(
    variant="road",
    formula=road.FORMULA,
    references=(road.peft_layer(ROAD.peft),),
    candidate=LiteLayer("road", road.FORMULA, small={"group_size": 4}),
    cases=tuple(grouped(case) for case in grid(rank=False, alpha=False, options=OPTIONS)),
    dropout=False,
    fit=grouped,
    bare=BARE.but(d_out=128),
    refused=(
        ("a group that does not divide d_out", {"group_size": 6}, ("group_size 6", "divide", "8")),
        ("an odd group", {"group_size": 5}, ("group_size", "even", "5")),
        ("an empty group", {"group_size": 0}, ("group_size", "even", "0")),
        ("an unknown road_variant", {"road_variant": "road_3"}, ("road_variant", "road_3", "road_4")),
    ),
)

test_road = parametrized(SUITE)
