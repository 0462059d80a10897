"""HRA against peft and the paper."""

from conformance.parametrize import parametrized
from conformance.suite import Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.hra import HRA
from refs import hra
from refs.case import Case

WIDEST = 1000  # peft forms matrices of d_in × d_in, one reflection after the other


def even(case: Case) -> Case:
    """Ranks are even; at least 4, so that rows of different pairs meet; enough for wide layers, of which r rows turn little."""
    return case.but(rank=2 * (max(4, hra.rank(case), case.d_in // 16) // 2))


SUITE = Suite(
    variant="hra",
    formula=hra.FORMULA,
    references=(hra.peft_layer(HRA.peft),),
    candidate=LiteLayer("hra", hra.FORMULA),
    cases=tuple(even(case) for case in grid(alpha=False) if case.d_in < WIDEST),
    dropout=False,
    fit=even,
    divergences=(
        Divergence(
            id="hra-base-dtype",
            check="accuracy",
            reference="peft",
            what=r"grad\.lora_U",
            where=lambda case: case.adapter_dtype is not None,
            size=(50.0, 50_000.0),
            reason="the turned input goes through the base layer in the base's dtype; peft casts the whole weight to the adapter's",
            link="https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/hra/layer.py",
        ),
    ),
    refused=(
        ("an odd rank", {"r": 3}, ("r ", "even", "3")),
        ("Gram–Schmidt of equal pairs", {"apply_gs": True}, ("apply_gs", "equal pairs", "True")),
    ),
)

test_hra = parametrized(SUITE)
