"""AntiPaSTO's rotation against the author's layer, antipasto3, lora-lite as it was recorded, and the formula."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Suite, grid
from conformance.suites.antipasto_authors import documented
from conformance.suites.basis import recorded, selected
from conformance.suites.lite_layers import LiteLayer
from refs import antipasto_rot
from refs.authors.layer import AuthorLayer
from refs.case import Case

OPTIONS: list[dict[str, Any]] = [
    {"coeff": -1.0},
    {"coeff": 0.5},
    {"block_size": 2},
    {"max_rotation_angle": 1.5},
    {"rotate_basis": "U"},
    {"rotate_basis": "both"},
    {"rotate_basis": "none"},
]
SEVERAL = {"rotate_basis": "both", "block_size": 3, "max_rotation_angle": 0.2, "coeff": -0.5}


def one_block(case: Case) -> Case:
    """Of a size that is the rank, where the default does not divide it."""
    return case.but(options={"block_size": case.rank}) if (case.rank or 0) % antipasto_rot.BLOCK else case


def whole_blocks(case: Case) -> Case:
    """As many blocks as there are components for; a single component does not turn."""
    most = min(case.d_in, case.d_out)
    size = min(antipasto_rot.block(case), most)
    if size < 2:
        return case.but(rank=1, options={"rotate_basis": "none"})
    rank = min(case.rank or most, most) // size * size
    return case.but(rank=max(rank, size), options={} if size == antipasto_rot.block(case) else {"block_size": size})


PLAIN = tuple(one_block(case) for case in grid(alpha=False, weight="decay", wide=False))
UNBIASED = PLAIN[0].but(bias=False)  # the authors drop a bias
CASES = (*PLAIN, *(UNBIASED.but(options=options) for options in OPTIONS), UNBIASED.but(rank=6, options=SEVERAL))
DEFAULTS = BARE.but(bias=False)
STEERED = UNBIASED.but(options={"coeff": -0.3})  # as the sweep of coefficients does
RECORDED = recorded(
    "antipasto_rot",
    [(0, {}), (1, {"max_rotation_angle": 0.3, "rotate_basis": "U"}), (2, {"block_size": 2, "rotate_basis": "both"}), (6, {})],
)

SUITE = Suite(
    variant="antipasto_rot",
    formula=antipasto_rot.FORMULA,
    references=(
        AuthorLayer("antipasto", antipasto_rot.FORMULA, (*CASES, STEERED, DEFAULTS), states=("saturated",)),
        AuthorLayer("antipasto3", antipasto_rot.FORMULA, (*CASES, STEERED), name="author JAX", in_float32=True),
        antipasto_rot.RECORDED,
    ),
    candidate=LiteLayer("antipasto_rot", antipasto_rot.FORMULA, small={"r": 4}),
    cases=(*CASES, *selected(CASES[0], "rms", **SEVERAL | {"block_size": 2}), *RECORDED),
    dropout=False,
    bare=DEFAULTS,
    fit=whole_blocks,
    divergences=tuple(documented()),
    refused=(
        ("a rank above the weight's", {"r": 9, "block_size": 3}, ("r = 9", "(8, 12)")),
        ("a rank that is no multiple of the block size", {"r": 6}, ("block_size = 4", "r = 6")),
        ("a block of one", {"block_size": 1}, ("block_size", "1")),
        ("an angle of π", {"max_rotation_angle": 3.2}, ("max_rotation_angle", "π")),
    ),
)

test_antipasto_rot = parametrized(SUITE)
