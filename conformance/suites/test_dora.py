"""DoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.dora import DORA
from refs import dora
from refs.case import Case


def directed(case: Case) -> Case:
    """Of one number a direction is but a sign, whatever V's digits are: what is measured of it would be rounding."""
    return case.but(d_in=max(case.d_in, 2))


SUITE = Suite(
    variant="dora",
    formula=dora.FORMULA,
    references=(dora.peft_layer(DORA.peft),),
    candidate=LiteLayer("dora", dora.FORMULA),
    cases=grid(alpha=True, options=[{"rslora": True}, {"init": "gaussian"}]),
    dropout=True,
    fit=directed,
)

test_dora = parametrized(SUITE)
