"""AntiPaSTO's diagonal-plus-low-rank core against lora-lite as it was recorded, and the formula."""

from functools import partial
from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.basis import part_of_rank, recorded, selected
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_dplr

fit = partial(part_of_rank, "lora_rank", default=antipasto_dplr.DEFAULT_LORA_RANK)

OPTIONS: list[dict[str, Any]] = [{"coeff": -1.0}, {"coeff": 0.5}, {"suppress_only": True}, {"suppress_only": True, "coeff": -0.5}]
CASES = tuple(map(fit, grid(alpha=False, weight="decay", options=OPTIONS, wide=False)))
RECORDED = recorded(
    "antipasto_dplr",
    [(0, {"lora_rank": 3}), (1, {"lora_rank": 1, "coeff": -1.0}), (2, {"suppress_only": True}), (6, {"lora_rank": 3})],
)

SUITE = Suite(
    variant="antipasto_dplr",
    formula=antipasto_dplr.FORMULA,
    references=(antipasto_dplr.RECORDED,),
    candidate=LiteLayer("antipasto_dplr", antipasto_dplr.FORMULA, small={"r": 4, "lora_rank": 3}),
    cases=(*CASES, *selected(CASES[0]), *RECORDED),
    dropout=False,
    fit=fit,
    refused=(
        ("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),
        ("a lora_rank above r", {"lora_rank": 5}, ("lora_rank = 5", "r = 4")),
        ("a lora_rank of 0", {"lora_rank": 0}, ("lora_rank", "0")),
    ),
)

test_antipasto_dplr = parametrized(SUITE)
