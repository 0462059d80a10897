"""OLoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Divergence, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from lite.variants.olora import OLORA
from refs import olora

CASES = grid(alpha=True, weight="decay", options=[{"rslora": True}, {"lora_bias": True}])
SQUARE_CONV1D = CASES[4].but(layer="conv1d")
LINK = "peft tuners/lora/layer.py, olora_init"

SUITE = Suite(
    variant="olora",
    formula=olora.FORMULA,
    references=(olora.peft_layer(OLORA.peft),),
    candidate=LiteLayer("olora", olora.FORMULA),
    cases=(*CASES, SQUARE_CONV1D),
    dropout=True,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
    divergences=(
        Divergence(
            id="olora-rounded-after",
            check="init",
            reference="peft – closed form",
            what=r"W_res \+ s·B·A",
            where=lambda case: case.dtype == "bfloat16" and case.layer != "conv1d",
            size=(1.0, 2.0**20),
            reason="peft forms the residual from float32 factors and rounds these afterwards, so that their rounding is lost",
            link=LINK,
        ),
        *(
            Divergence(
                id="olora-conv1d",
                check="init",
                reference=reference,
                what="lora_A|lora_B|residual|B·A|spectrum of lora_A|W_res.*",
                where=lambda case: case.layer == "conv1d",
                size=(1.0, 2.0**60),
                reason="peft decomposes the transposed weight of a Conv1D: a square one does not start as the identity",
                link=LINK,
            )
            for reference in ("peft", "peft – closed form")
        ),
    ),
)

test_olora = parametrized(SUITE)
