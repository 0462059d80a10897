"""IA3 on the input against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.ia3_ff import IA3_FF
from refs import ia3_ff

SUITE = Suite(
    variant="ia3_ff",
    formula=ia3_ff.FORMULA,
    references=(ia3_ff.peft_layer(IA3_FF.peft),),
    candidate=LiteLayer("ia3_ff", ia3_ff.FORMULA),
    cases=grid(rank=False, alpha=False),
    dropout=False,
)

test_ia3_ff = parametrized(SUITE)
