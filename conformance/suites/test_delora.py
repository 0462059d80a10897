"""DeLoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.delora import DELORA
from refs import delora
from refs.case import Case


def directed(case: Case) -> Case:
    """Of one number a direction is but a sign, without a gradient: what is measured of it would be rounding."""
    return case.but(d_in=max(case.d_in, 2), d_out=max(case.d_out, 2))


SUITE = Suite(
    variant="delora",
    formula=delora.FORMULA,
    references=(delora.peft_layer(DELORA.peft),),
    candidate=LiteLayer("delora", delora.FORMULA),
    cases=grid(alpha=False, options=[{"lambda0": 7.0}, {"init": "kaiming"}]),
    dropout=True,
    fit=directed,
)

test_delora = parametrized(SUITE)
