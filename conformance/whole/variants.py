"""Which variants whole models are asked for."""

from conformance.variants import known
from conformance.whole.sides import reference_of


def beside_peft() -> list[str]:
    """Those that peft has, by whatever name."""
    return [name for name in known() if reference_of(name)]
