"""IA3 on the input against peft, the authors' T-Few and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.ia3_ff import IA3_FF
from refs import ia3_ff
from refs.authors.layer import AuthorLayer

CASES = grid(rank=False, alpha=False)

SUITE = Suite(
    variant="ia3_ff",
    formula=ia3_ff.FORMULA,
    references=(ia3_ff.peft_layer(IA3_FF.peft), AuthorLayer("tfew_ff", ia3_ff.FORMULA, CASES)),
    candidate=LiteLayer("ia3_ff", ia3_ff.FORMULA),
    cases=CASES,
    dropout=False,
)

test_ia3_ff = parametrized(SUITE)
