"""AntiPaSTO's arrow against lora-lite as it was recorded, and the formula."""

from functools import partial
from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.basis import part_of_rank, recorded, selected
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_arrow

fit = partial(part_of_rank, "block", default=antipasto_arrow.DEFAULT_BLOCK, least=2)

OPTIONS: list[dict[str, Any]] = [{"coeff": -1.0}, {"coeff": 0.5}, {"suppress_only": True}, {"suppress_only": True, "coeff": -0.5}]
CASES = tuple(map(fit, grid(alpha=False, weight="decay", options=OPTIONS, wide=False)))
# The third was recorded with suppress_only, which changes nothing there: its one g is below zero.
RECORDED = recorded("antipasto_arrow", [(0, {"block": 3}), (1, {"block": 1, "coeff": -1.0}), (2, {"block": 7}), (6, {"block": 3})])

SUITE = Suite(
    variant="antipasto_arrow",
    formula=antipasto_arrow.FORMULA,
    references=(antipasto_arrow.RECORDED,),
    candidate=LiteLayer("antipasto_arrow", antipasto_arrow.FORMULA, small={"r": 4, "block": 3}),
    cases=(*CASES, *selected(CASES[0]), *RECORDED),
    dropout=False,
    fit=fit,
    refused=(
        ("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),
        ("a block without room for a gain", {"block": 4}, ("block = 4", "r = 4")),
        ("a block of 0", {"block": 0}, ("block", "0")),
    ),
)

test_antipasto_arrow = parametrized(SUITE)
