"""Every variant on quantised bases, beside peft."""

from conformance.variants import known
from conformance.whole import cell
from conformance.whole.quantised import CHECK, measured
from refs.quantised import QUANTISED

test_quantised = cell.as_tests(cell.on_models(CHECK, known(), QUANTISED.values(), measured))
