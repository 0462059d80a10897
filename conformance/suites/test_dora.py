"""DoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.dora import DORA
from refs import dora

SUITE = Suite(
    variant="dora",
    formula=dora.FORMULA,
    references=(dora.peft_layer(DORA.peft),),
    candidate=LiteLayer("dora", dora.FORMULA),
    cases=grid(alpha=True, options=[{"rslora": True}, {"init": "gaussian"}]),
    dropout=True,
)

test_dora = parametrized(SUITE)
