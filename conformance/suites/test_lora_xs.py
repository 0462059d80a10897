"""LoRA-XS against the two methods of peft that are the same function, and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from refs import lora_xs

CASES = grid(alpha=True, weight="decay", wide=False)

SUITE = Suite(
    variant="lora_xs",
    formula=lora_xs.FORMULA,
    references=lora_xs.references(),
    candidate=LiteLayer("lora_xs", lora_xs.FORMULA),
    # The default scale; a randomised decomposition, which is exact only after many iterations.
    cases=(*CASES, CASES[0].but(alpha=None), CASES[0].but(options={"niter": 128})),
    dropout=True,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_lora_xs = parametrized(SUITE)
