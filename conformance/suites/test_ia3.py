"""IA3 on the output against peft, the authors' T-Few and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.ia3 import IA3
from refs import ia3
from refs.authors.layer import AuthorLayer

CASES = grid(rank=False, alpha=False)

SUITE = Suite(
    variant="ia3",
    formula=ia3.FORMULA,
    references=(ia3.peft_layer(IA3.peft), AuthorLayer("tfew", ia3.FORMULA, CASES)),
    candidate=LiteLayer("ia3", ia3.FORMULA),
    cases=CASES,
    dropout=False,
)

test_ia3 = parametrized(SUITE)
