"""AntiPaSTO's gain, oriented by input sizes, against lora-lite as it was recorded, and the formula."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Suite, grid, within_rank
from conformance.suites.basis import recorded
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_asvd

OPTIONS: list[dict[str, Any]] = [
    {"coeff": -1.0},
    {"coeff": 0.5},
    {"suppress_only": True},
    {"cov_eps": 0.5},
    {"cov_eps": 0.1, "suppress_only": True, "coeff": -0.5},
]
CASES = grid(alpha=False, weight="decay", data="several", options=OPTIONS, wide=False)
RECORDED = recorded("antipasto_asvd", [(0, {}), (1, {"coeff": -1.0}), (2, {"suppress_only": True}), (6, {})], data="several")

SUITE = Suite(
    variant="antipasto_asvd",
    formula=antipasto_asvd.FORMULA,
    references=(antipasto_asvd.RECORDED,),
    candidate=LiteLayer("antipasto_asvd", antipasto_asvd.FORMULA, small={"r": 4}),
    cases=(*CASES, *RECORDED),
    dropout=False,
    fit=within_rank,
    bare=BARE.but(data="one"),
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_antipasto_asvd = parametrized(SUITE)
