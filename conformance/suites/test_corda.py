"""CorDA against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.rounded_after import rounded_after
from lite.variants.corda import CORDA
from refs import corda

OPTIONS: list[dict[str, Any]] = [{"rslora": True}, {"lora_bias": True}, {"mode": "kpm"}, {"damp": 0.1}]

SUITE = Suite(
    variant="corda",
    formula=corda.FORMULA,
    references=(corda.peft_layer(CORDA.peft),),
    candidate=LiteLayer("corda", corda.FORMULA, small={"r": 4}),
    cases=grid(alpha=True, weight="decay", data="several", options=OPTIONS, wide=False),
    dropout=True,
    fit=within_rank,
    bare=BARE.but(data="one"),
    divergences=(rounded_after("corda"),),
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_corda = parametrized(SUITE)
