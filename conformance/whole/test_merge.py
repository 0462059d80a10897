"""Every variant merged into every whole model."""

from conformance.variants import known
from conformance.whole import merging
from conformance.whole.cell import as_tests, on_models
from refs.models import SHORT

test_merge = as_tests(on_models(merging.CHECK, known(), SHORT.values(), merging.measured))
