"""DoRA against peft, the authors' forks of it and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.dora import DORA
from refs import dora
from refs.authors.layer import AuthorLayer
from refs.case import Case

CASES = grid(alpha=True, options=[{"rslora": True}, {"init": "gaussian"}])

FULL = "author full"
ATTACHED = "the authors' dora_simple=False lets gradients of A and B through the norm; the paper's §4.3, peft and the authors' default do not"
LINK = "https://github.com/NVlabs/DoRA/blob/7e2f10abbe8efe212c8fca1d983ae1d04ef13a18/commonsense_reasoning/peft/src/peft/tuners/dora.py"
BESIDE_FULL = (f"{FULL} – closed form", f"{FULL} – peft", f"{FULL} – author commonsense", f"author visual – {FULL}")
GRADIENT, ROUNDING = (2.0**46, 2.0**53), (2.0**17, 2.0**23)  # 0.02 … 0.48 of the gradient; the same in units of a float32 error


def directed(case: Case) -> Case:
    """Of one number a direction is but a sign, whatever V's digits are: what is measured of it would be rounding."""
    return case.but(d_in=max(case.d_in, 2))


def away_from_start(case: Case) -> bool:
    """Whether B is not zero, so that A has a gradient."""
    return case.state != "init"


SUITE = Suite(
    variant="dora",
    formula=dora.FORMULA,
    references=(
        dora.peft_layer(DORA.peft),
        AuthorLayer("dora_commonsense", dora.FORMULA, CASES, name="author commonsense"),
        AuthorLayer("dora_full", dora.FORMULA, CASES, name="author full"),
        AuthorLayer("dora_visual", dora.FORMULA, (*CASES, BARE), name="author visual"),
    ),
    candidate=LiteLayer("dora", dora.FORMULA),
    cases=(*CASES, CASES[0].but(options={"rslora": True, "init": "gaussian"})),
    dropout=True,
    fit=directed,
    divergences=tuple(
        Divergence(
            id="dora-full-gradient",
            check=check,
            reference=reference,
            what=what,
            where=where,
            size=size,
            reason=ATTACHED,
            link=LINK,
        )
        for check, reference, size in (
            *(("gradients", column, GRADIENT) for column in (FULL, *BESIDE_FULL)),
            ("dropout", FULL, GRADIENT),
            ("accuracy", FULL, ROUNDING),
        )
        for what, where in ((r"grad\.lora_A", away_from_start), (r"grad\.lora_B", lambda case: True))
    ),
)

test_dora = parametrized(SUITE)
