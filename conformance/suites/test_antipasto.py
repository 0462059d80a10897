"""AntiPaSTO's gain against lora-lite as it was recorded, and the formula."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid, within_rank
from conformance.suites.basis import recorded, selected
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto

CASES = grid(
    alpha=False,
    weight="decay",
    options=[{"coeff": -1.0}, {"coeff": 0.5}, {"suppress_only": True}, {"suppress_only": True, "coeff": -0.5}],
    wide=False,
)
RECORDED = recorded("antipasto_gain", [(0, {}), (1, {"coeff": -1.0}), (2, {"suppress_only": True}), (6, {})])

SUITE = Suite(
    variant="antipasto",
    formula=antipasto.FORMULA,
    references=(antipasto.RECORDED,),
    candidate=LiteLayer("antipasto", antipasto.FORMULA, small={"r": 4}),
    cases=(*CASES, *selected(CASES[0], suppress_only=True, coeff=-0.5), *RECORDED),
    dropout=False,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_antipasto = parametrized(SUITE)
