"""A divergence that peft's methods with a residual share."""

from collections.abc import Callable

from conformance.suite import Divergence
from refs.case import Case


def rounded_after(variant: str, where: Callable[[Case], bool] = lambda case: True) -> Divergence:
    """In bfloat16 the residual and the factors do not give the weight back within one rounding. where: on which of those cases."""
    return Divergence(
        id=f"{variant}-rounded-after",
        check="init",
        reference="peft – closed form",
        what=r"W_res \+ s·B·A",
        where=lambda case: case.dtype == "bfloat16" and where(case),
        size=(1.0, 2.0**20),
        reason="peft forms the residual from float32 factors and rounds these afterwards, so that their rounding is lost",
        link=f"peft tuners/lora/layer.py, {variant}_init",
    )
