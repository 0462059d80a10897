"""Every variant into peft and back, on every whole model."""

from conformance.whole import cell, interop

test_interop = cell.tests(interop.cells())
