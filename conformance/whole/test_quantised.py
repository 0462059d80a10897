"""Every variant on quantised bases, beside peft."""

from conformance.variants import known
from conformance.whole import quantised
from conformance.whole.cell import tests

test_quantised = tests(quantised.cells(known()))
