"""DeLoRA against peft, the author's layer and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.delora_authors import documented
from conformance.suites.lite_layers import LiteLayer
from lite.variants.delora import DELORA
from refs import delora
from refs.authors.layer import AuthorLayer
from refs.case import Case


def directed(case: Case) -> Case:
    """Of one number a direction is but a sign, without a gradient: what is measured of it would be rounding."""
    return case.but(d_in=max(case.d_in, 2), d_out=max(case.d_out, 2))


CASES = grid(alpha=False, options=[{"lambda0": 7.0}, {"init": "kaiming"}])
OTHER_START = "the author starts at random A and B, less a frozen copy of what they add; peft and lite start at B = 0"
AUTHORS = tuple(
    AuthorLayer(layer, delora.FORMULA, CASES, name=name, other_start=OTHER_START, states=("clamped", "negative"))
    for layer, name in (("delora", "author"), ("delora_aliased", "author aliased"))
)

SUITE = Suite(
    variant="delora",
    formula=delora.FORMULA,
    references=(delora.peft_layer(DELORA.peft), *AUTHORS),
    candidate=LiteLayer("delora", delora.FORMULA),
    cases=(*CASES, CASES[0].but(options={"lambda0": 7.0, "init": "kaiming"})),
    dropout=True,
    fit=directed,
    divergences=tuple(documented()),
)

test_delora = parametrized(SUITE)
