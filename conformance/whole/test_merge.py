"""Every variant merged into every whole model."""

from conformance.whole import cell, merging

test_merge = cell.tests(merging.cells())
