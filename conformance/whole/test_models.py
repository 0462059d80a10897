"""Every variant that peft has, on every whole model."""

from conformance.whole import model
from conformance.whole.cell import tests
from conformance.whole.variants import beside_peft

test_model = tests(model.cells(beside_peft()))
