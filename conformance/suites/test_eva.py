"""EVA against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.eva import EVA
from refs import eva

LINK = "peft tuners/lora/eva.py, utils/incremental_pca.py"
OPTIONS: list[dict[str, Any]] = [
    {"rslora": True},
    {"lora_bias": True},
    {"rho": 1.0},
    {"adjust_scaling_factors": False},
    {"whiten": True},
]

SUITE = Suite(
    variant="eva",
    formula=eva.FORMULA,
    references=(eva.peft_layer(EVA.peft),),
    candidate=LiteLayer("eva", eva.FORMULA, small={"r": 2, "rho": 1.0}),
    cases=grid(alpha=True, data="one", options=OPTIONS, wide=False),
    dropout=True,
    bare=BARE.but(data="one"),
    refused=(("a rank above the input's", {"r": 9}, ("r = 9", "size 8")),),
    divergences=tuple(
        Divergence(id=id_, check="init", reference=reference, what="lora_A", where=where, size=size, reason=reason, link=LINK)
        for reference in ("peft", "peft – closed form")
        for id_, where, size, reason in (
            (
                "eva-whiten-passes",
                lambda case: case.option("whiten", False),
                (2.0**48, 2.0**53),
                "peft counts the data once per pass over it until two passes look alike, so that its singular values, which whitening divides by, grow with their number",
            ),
            (
                "eva-randomised",
                lambda case: case.weight.startswith("minilm:"),
                (2.0**30, 2.0**50),
                "peft's decomposition is randomised and loses digits where a spectrum falls slowly",
            ),
        )
    ),
)

test_eva = parametrized(SUITE)
