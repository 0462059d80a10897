"""LoRA against peft, the authors' loralib and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.lora import LORA
from refs import lora
from refs.authors.layer import AuthorLayer

CASES = grid(alpha=True, options=[{"rslora": True}, {"init": "gaussian"}, {"init": "orthogonal"}, {"lora_bias": True}])

SUITE = Suite(
    variant="lora",
    formula=lora.FORMULA,
    references=(lora.peft_layer(LORA.peft), AuthorLayer("loralib", lora.FORMULA, CASES)),
    candidate=LiteLayer("lora", lora.FORMULA),
    cases=CASES,
    dropout=True,
    refused=(("an odd rank for orthogonal factors", {"init": "orthogonal", "r": 3}, ("orthogonal", "even", "3")),),
)

test_lora = parametrized(SUITE)
