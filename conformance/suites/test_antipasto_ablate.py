"""AntiPaSTO's ablation against lora-lite as it was recorded, and the formula."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid, within_rank
from conformance.suites.basis import recorded
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_ablate
from refs.case import Case

OPTIONS: list[dict[str, Any]] = [
    {"coeff": -1.0},
    {"coeff": 0.5, "k": 2},
    {"k": 3},
    {"init_alpha": 0.0},
    {"init_alpha": 0.4, "k": 2},
]
ORIENTED: list[dict[str, Any]] = [
    {"cov_orient": True},
    {"cov_orient": True, "cov_eps": 0.5, "k": 2, "coeff": 0.5, "init_alpha": 0.4},
]
CASES = grid(alpha=False, weight="decay", options=OPTIONS, wide=False)
BY_DATA = tuple(CASES[number].but(data="padded", options=options) for number, options in enumerate(ORIENTED))
RECORDED = recorded("antipasto_ablate", [(0, {}), (1, {"k": 2, "coeff": -1.0}), (2, {"k": 3}), (6, {"k": 2})])


def fit(case: Case) -> Case:
    """Ranks that the weight has, and fewer directions than components: as many are all of them, whatever they are, and the gradient
    is what is left of sums that cancel (3 × 2, k = r = 2: 1/700 of them, both sides 100 … 400 u64 off 60 digits).
    """
    case = within_rank(case.but(d_in=max(case.d_in, 2), d_out=max(case.d_out, 2), rank=max(case.rank or 2, 2)))
    fewer = min(case.option("k", 1), (case.rank or 2) - 1)
    return case.but(options={"k": fewer}) if "k" in dict(case.options) else case


SUITE = Suite(
    variant="antipasto_ablate",
    formula=antipasto_ablate.FORMULA,
    references=(antipasto_ablate.RECORDED,),
    candidate=LiteLayer("antipasto_ablate", antipasto_ablate.FORMULA, small={"r": 4}),
    cases=(*CASES, *BY_DATA, *RECORDED),
    dropout=False,
    fit=fit,
    refused=(
        ("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),
        ("more directions than components", {"k": 5}, ("k = 5", "r = 4")),
        ("an orientation without data", {"cov_orient": True}, ("antipasto_ablate", "data")),
    ),
)

test_antipasto_ablate = parametrized(SUITE)
