"""LoRA-XS against its author's code, the two methods of peft that are the same function, lora-lite as it was recorded, and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from refs import lora_xs
from refs.authors.layer import AuthorLayer
from refs.case import Case

CASES = grid(alpha=True, weight="decay", wide=False)
# alpha = r there is alpha=None here: a scale of one, and so in every case but the second. The last two are of float32.
RECORDED = tuple(
    Case(d_in=d_in, d_out=d_out, rank=rank, alpha=alpha, bias=bias, batch=(2, 5), weight=f"recorded:lora_lite/lora_xs/vec_{n}")
    for n, d_in, d_out, rank, alpha, bias in (
        (0, 24, 16, 8, None, False),
        (1, 16, 24, 8, 16.0, True),
        (2, 24, 16, 4, None, False),
        (6, 24, 16, 8, None, False),
    )
)

# The default scale.
EVERY_CASE = (*CASES, CASES[0].but(alpha=None))

SUITE = Suite(
    variant="lora_xs",
    formula=lora_xs.FORMULA,
    references=(*lora_xs.references(), AuthorLayer("lora_xs", lora_xs.FORMULA, EVERY_CASE), lora_xs.RECORDED),
    candidate=LiteLayer("lora_xs", lora_xs.FORMULA),
    # A randomised decomposition, which is exact only after many iterations.
    cases=(*EVERY_CASE, CASES[0].but(options={"niter": 128}), *RECORDED),
    dropout=True,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_lora_xs = parametrized(SUITE)
