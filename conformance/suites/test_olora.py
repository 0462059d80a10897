"""OLoRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Divergence, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.rounded_after import rounded_after
from lite.variants.olora import OLORA
from refs import olora

CASES = grid(alpha=True, weight="decay", options=[{"rslora": True}, {"lora_bias": True}])
SQUARE_CONV1D = CASES[4].but(layer="conv1d")

SUITE = Suite(
    variant="olora",
    formula=olora.FORMULA,
    references=(olora.peft_layer(OLORA.peft),),
    candidate=LiteLayer("olora", olora.FORMULA),
    cases=(*CASES, SQUARE_CONV1D, CASES[0].but(options={"rslora": True, "lora_bias": True})),
    dropout=True,
    fit=within_rank,
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
    divergences=(
        rounded_after("olora", lambda case: case.layer != "conv1d"),
        *(
            Divergence(
                id="olora-conv1d",
                check="init",
                reference=reference,
                what="lora_A|lora_B|residual|B·A|spectrum of lora_A|W_res.*",
                where=lambda case: case.layer == "conv1d",
                size=(1.0, 2.0**60),
                reason="peft decomposes the transposed weight of a Conv1D: a square one does not start as the identity",
                link="peft tuners/lora/layer.py, olora_init",
            )
            for reference in ("peft", "peft – closed form")
        ),
    ),
)

test_olora = parametrized(SUITE)
