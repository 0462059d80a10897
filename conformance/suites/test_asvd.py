"""ASVD against its author, the authors who keep a residual, and the paper. peft has none."""

from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid, within_rank
from conformance.suites.lite_layers import LiteLayer
from refs import asvd
from refs.authors.layer import AuthorLayer
from refs.case import Case

OPTIONS: list[dict[str, Any]] = [{"rslora": True}, {"lora_bias": True}, {"scaling_method": "abs_max"}, {"act_alpha": 1.0}]
GRID = grid(alpha=True, weight="decay", data="several", options=OPTIONS, wide=False)

# The author's randomised decomposition finds what the others find only where the spectrum falls off behind the r-th value.
CLIFF = Case(d_in=20, d_out=14, rank=4, alpha=6.0, batch=(3, 5), weight="cliff", data="several", options=(("residual", False),))
TRUNCATED = (
    CLIFF.but(d_in=12, d_out=18, rank=3, alpha=5.0, bias=False, options={"scaling_method": "abs_max"}),
    CLIFF.but(options={"act_alpha": 1.0}),
    GRID[0].but(options={"residual": False}),
)
CASES = (GRID[0], CLIFF, *GRID[1:], *TRUNCATED)  # data of every kind is tried on the first two

ALL = {"rslora": True, "lora_bias": True, "scaling_method": "abs_max", "act_alpha": 1.0}
TOGETHER = (GRID[0].but(options=ALL), GRID[0].but(options=ALL | {"residual": False}))

RANDOMISED = "the author's decomposition is randomised, with two power iterations and no oversampling: the part that it finds depends on the seed"
DIVERGENCES = (
    *(
        Divergence(
            id="asvd-randomised",
            check="init",
            reference=reference,
            what=what,
            where=lambda case: case.weight != "cliff",
            size=size,
            reason=RANDOMISED,
            link="https://github.com/hahnyuan/ASVD4LLM/blob/863042743edb4c0dcc512a45534dea07df16b140/modules/svd_linear.py, from_linear",
        )
        for reference in ("author", "author – closed form")
        for what, size in (("lora_A|lora_B|B·A", (2.0**50, 2.0**54)), ("spectrum of lora_[AB]", (2.0**46, 2.0**50)))
    ),
    Divergence(
        id="asvd-trains-bias",
        check="mapping",
        reference="author residual – closed form",
        what="trained",
        where=lambda case: case.bias,
        size=(0.0, 0.0),
        reason="the script of CorDA's authors freezes all but ALinear and BLinear, and the base layer's bias is ALinear's",
        link="https://github.com/iboing/CorDA/blob/baffb03ac090f23305e5fb586a2d3c16df7f12db/train_model.py",
    ),
)

SUITE = Suite(
    variant="asvd",
    formula=asvd.FORMULA,
    references=(
        AuthorLayer("asvd", asvd.FORMULA, CASES),
        AuthorLayer("corda_act_aware", asvd.FORMULA, CASES, name="author residual"),
    ),
    candidate=LiteLayer("asvd", asvd.FORMULA, small={"r": 4}),
    cases=(*CASES, *TOGETHER),
    dropout=True,
    fit=within_rank,
    bare=BARE.but(data="one"),
    divergences=DIVERGENCES,
    refused=(
        ("a rank above the weight's", {"r": 9}, ("r = 9", "(8, 12)")),
        ("an unknown size of inputs", {"scaling_method": "fisher_abs_mean"}, ("fisher_abs_mean", "abs_max")),
        ("no power of the sizes", {"act_alpha": 0}, ("act_alpha", "0")),
        ("a residual that is no switch", {"residual": "no"}, ("residual", "'no'")),
    ),
)

test_asvd = parametrized(SUITE)
