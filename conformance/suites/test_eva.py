"""EVA against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.eva import EVA
from refs import eva
from refs.case import Case

LINK = "peft tuners/lora/eva.py, utils/incremental_pca.py"
OPTIONS: list[dict[str, Any]] = [
    {"rslora": True},
    {"lora_bias": True},
    {"rho": 1.0},
    {"rho": 1.4},
    {"adjust_scaling_factors": False},
    {"whiten": True},
]

PASSES = (
    "peft counts the data once per pass over it until two passes look alike, so that its singular values, which whitening divides by, "
    "grow with their number"
)
RANDOMISED = "peft's decomposition is randomised and loses digits where a spectrum falls slowly"
STREAMING = "peft's streaming decomposition is truncated and stops once two steps look alike, so that on several batches it sees other directions"


def whitens(case: Case) -> bool:
    """Whether singular values count, not only directions."""
    return bool(case.option("whiten", False))


def is_real(case: Case) -> bool:
    """Whether the data are pretrained activations, whose spectrum has no gap."""
    return case.weight.startswith("minilm:")


def half_rank(case: Case) -> Case:
    """A layer may get up to twice the rank, out of d_in directions."""
    return case.but(rank=min(case.rank or case.d_in, max(1, case.d_in // 2)))


SUITE = Suite(
    variant="eva",
    formula=eva.FORMULA,
    references=(eva.peft_layer(EVA.peft),),
    candidate=LiteLayer("eva", eva.FORMULA, small={"r": 2}),
    cases=grid(alpha=True, data="one", options=OPTIONS, wide=False),
    dropout=True,
    fit=half_rank,
    bare=BARE.but(data="one"),
    refused=(("a rank above the input's", {"r": 9}, ("r = 9", "size 8")),),
    divergences=(
        *(
            Divergence(id=id_, check="init", reference=reference, what="lora_A", where=where, size=size, reason=reason, link=LINK)
            for reference in ("peft", "peft – closed form")
            for id_, where, size, reason in (
                ("eva-whiten-passes", whitens, (2.0**48, 2.0**53), PASSES),
                ("eva-randomised", is_real, (2.0**30, 2.0**50), RANDOMISED),
            )
        ),
        *(
            Divergence(
                id="eva-streaming",
                check="calibration",
                reference="peft",
                what=what,
                where=lambda case: case.data in ("several", "padded"),
                size=size,
                reason=STREAMING,
                link=LINK,
            )
            for what, size in (("lora_A", (2.0**40, 2.0**53)), ("angle of lora_A", (2.0**-8, 1.0)))
        ),
    ),
)

test_eva = parametrized(SUITE)
