"""PiSSA against peft, the start of its authors and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.rounded_after import rounded_after
from lite.variants.pissa import PISSA
from refs import pissa
from refs.authors.layer import AuthorLayer

CASES = grid(alpha=True, weight="decay", options=[{"rslora": True}, {"lora_bias": True}], wide=False)

SUITE = Suite(
    variant="pissa",
    formula=pissa.FORMULA,
    references=(pissa.peft_layer(PISSA.peft), AuthorLayer("pissa_quant", pissa.FORMULA, CASES)),
    candidate=LiteLayer("pissa", pissa.FORMULA),
    # A randomised decomposition is exact only after many iterations, and determined only where singular values are apart.
    cases=(*CASES, CASES[0].but(options={"niter": 128}), CASES[0].but(options={"rslora": True, "lora_bias": True, "niter": 128})),
    dropout=True,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
    divergences=(rounded_after("pissa"),),
)

test_pissa = parametrized(SUITE)
