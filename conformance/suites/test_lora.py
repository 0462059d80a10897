"""LoRA against peft, the authors' loralib and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.lora import LORA
from refs import lora
from refs.authors.layer import AuthorLayer
from refs.case import Case

CASES = grid(alpha=True, options=[{"rslora": True}, {"init": "gaussian"}, {"init": "orthogonal"}, {"lora_bias": True}])
TOGETHER = (
    CASES[0].but(options={"rslora": True, "lora_bias": True}),  # peft has a bias with the default start only
    CASES[0].but(options={"rslora": True, "init": "orthogonal", "lora_bias": True}),
)


def even(case: Case) -> Case:
    """Orthogonal factors take an even rank."""
    odd = case.option("init", "kaiming") == "orthogonal" and (case.rank or 0) % 2
    return case.but(rank=(case.rank or 0) + 1) if odd else case


SUITE = Suite(
    variant="lora",
    formula=lora.FORMULA,
    references=(lora.peft_layer(LORA.peft), AuthorLayer("loralib", lora.FORMULA, CASES)),
    candidate=LiteLayer("lora", lora.FORMULA),
    cases=(*CASES, *TOGETHER),
    dropout=True,
    fit=even,
    refused=(("an odd rank for orthogonal factors", {"init": "orthogonal", "r": 3}, ("orthogonal", "even", "3")),),
)

test_lora = parametrized(SUITE)
