"""Which variants whole models are asked for."""

from conformance.suite_of import suite_of
from conformance.variants import known
from refs.peft_layer import PeftLayer


def beside_peft() -> list[str]:
    """Those that peft has, by whatever name."""
    return [name for name in known() if any(isinstance(reference, PeftLayer) for reference in suite_of(name).references)]
