"""CorDA against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
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
    divergences=(
        Divergence(
            id="corda-rounded-after",
            check="init",
            reference="peft – closed form",
            what=r"W_res \+ s·B·A",
            where=lambda case: case.dtype == "bfloat16",
            size=(1.0, 2.0**20),
            reason="peft forms the residual from float32 factors and rounds these afterwards, so that their rounding is lost",
            link="peft tuners/lora/layer.py, corda_init",
        ),
    ),
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_corda = parametrized(SUITE)
