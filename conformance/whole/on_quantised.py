"""Every variant on quantised bases, beside peft.

`nox -s quantised`, in an environment of its own: with bitsandbytes installed, every process that imports peft takes seconds longer. pytest does
not collect this file by itself.
"""

from conformance.variants import known
from conformance.whole.cell import as_tests, on_models
from conformance.whole.quantised import CHECK, measured
from refs.quantised import QUANTISED

test_quantised = as_tests(on_models(CHECK, known(), QUANTISED.values(), measured))
