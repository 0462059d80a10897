"""AntiPaSTO's gain, oriented by the covariance, against lora-lite as it was recorded, and the formula."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Suite, grid, within_rank
from conformance.suites.basis import recorded
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_corda

OPTIONS: list[dict[str, Any]] = [
    {"coeff": -1.0},
    {"coeff": 0.5},
    {"suppress_only": True},
    {"cov_eps": 0.5},
    {"cov_eps": 0.1, "suppress_only": True, "coeff": -0.5},
]
CASES = grid(alpha=False, weight="decay", data="several", options=OPTIONS, wide=False)
RECORDED = recorded("antipasto_corda", [(0, {}), (1, {"coeff": -1.0}), (2, {"suppress_only": True}), (6, {})], data="several")

SUITE = Suite(
    variant="antipasto_corda",
    formula=antipasto_corda.FORMULA,
    references=(antipasto_corda.RECORDED,),
    candidate=LiteLayer("antipasto_corda", antipasto_corda.FORMULA, small={"r": 4}),
    cases=(*CASES, *RECORDED),
    dropout=False,
    fit=within_rank,
    bare=BARE.but(data="one"),
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_antipasto_corda = parametrized(SUITE)
