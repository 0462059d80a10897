"""CorDA against peft and the paper."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.rounded_after import rounded_after
from lite.variants.corda import CORDA
from refs import corda
from refs.authors.layer import AuthorLayer

OPTIONS: list[dict[str, Any]] = [{"rslora": True}, {"lora_bias": True}, {"mode": "kpm"}, {"damp": 0.1}]
CASES = grid(alpha=True, weight="decay", data="several", options=OPTIONS, wide=False)
TOGETHER = (
    CASES[0].but(options={"rslora": True, "mode": "kpm"}),  # peft has no more of them together
    CASES[0].but(options={"rslora": True, "lora_bias": True, "mode": "kpm", "damp": 0.1}),
)

CODE = "https://github.com/iboing/CorDA/blob/baffb03ac090f23305e5fb586a2d3c16df7f12db"
FACTORS = ("lora_A", "lora_B")  # the author's A is √(256/calls) times too large, B as much too small
SMALLER, LARGER = (2.0**51, 2.0**54), (2.0**55, 2.0**58)  # 1 − √(calls/256) and √(256/calls) − 1, in u64

BALANCE = tuple(
    Divergence(
        id="corda-balance",
        check=check,
        reference=reference,
        what=rf"(spectrum of )?{name}",
        where=lambda case: True,
        size=size,
        reason="the author divides C by 256, his default number of samples, whatever the number of calls: the product of A and B and the residual are the same",
        link=f"{CODE}/cordalib/act_aware_utils.py, calib_cov_distribution",
    )
    for check, reference, sizes in (
        ("init", "author", (SMALLER, LARGER)),
        ("calibration", "author", (SMALLER, LARGER)),
        ("init", "author – closed form", (LARGER, SMALLER)),
        ("init", "author – peft", (LARGER, SMALLER)),
    )
    for name, size in zip(FACTORS, sizes, strict=True)
)
BIAS = tuple(
    Divergence(
        id="corda-trains-bias",
        check="mapping",
        reference=f"author – {truth}",
        what="trained",
        where=lambda case: case.bias,
        size=(0.0, 0.0),
        reason="the author's script freezes all but ALinear and BLinear, and the base layer's bias is ALinear's",
        link=f"{CODE}/train_model.py",
    )
    for truth in ("closed form", "peft")
)

SUITE = Suite(
    variant="corda",
    formula=corda.FORMULA,
    references=(corda.peft_layer(CORDA.peft), AuthorLayer("corda", corda.FORMULA, CASES)),
    candidate=LiteLayer("corda", corda.FORMULA, small={"r": 4}),
    cases=(*CASES, *TOGETHER),
    dropout=True,
    fit=within_rank,
    bare=BARE.but(data="one"),
    divergences=(rounded_after("corda"), *BALANCE, *BIAS),
    refused=(("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),),
)

test_corda = parametrized(SUITE)
