"""DeLoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.delora import DELORA
from refs import delora

SUITE = Suite(
    variant="delora",
    formula=delora.FORMULA,
    references=(delora.peft_layer(DELORA.peft),),
    candidate=LiteLayer("delora", delora.FORMULA),
    cases=grid(alpha=False, options=[{"lambda0": 7.0}, {"init": "kaiming"}]),
    dropout=True,
)

test_delora = parametrized(SUITE)
