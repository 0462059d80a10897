"""IA3 on the output against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.ia3 import IA3
from refs import ia3

SUITE = Suite(
    variant="ia3",
    formula=ia3.FORMULA,
    references=(ia3.peft_layer(IA3.peft),),
    candidate=LiteLayer("ia3", ia3.FORMULA),
    cases=grid(rank=False, alpha=False),
    dropout=False,
)

test_ia3 = parametrized(SUITE)
