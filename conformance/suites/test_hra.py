"""HRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.hra import HRA
from refs import hra
from refs.case import Case


def even(case: Case) -> Case:
    """Ranks are even; at least 4, so that rows of different pairs meet."""
    return case.but(rank=max(4, 2 * (hra.rank(case) // 2)))


SUITE = Suite(
    variant="hra",
    formula=hra.FORMULA,
    references=(hra.peft_layer(HRA.peft),),
    candidate=LiteLayer("hra", hra.FORMULA),
    cases=tuple(even(case) for case in grid(alpha=False)),
    dropout=False,
    refused=(
        ("an odd rank", {"r": 3}, ("r ", "even", "3")),
        ("Gram–Schmidt of equal pairs", {"apply_gs": True}, ("apply_gs", "equal pairs", "True")),
    ),
)

test_hra = parametrized(SUITE)
