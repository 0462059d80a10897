"""Every variant into peft and back, on every whole model."""

from conformance.variants import known
from conformance.whole import interop
from conformance.whole.cell import as_tests, on_models
from refs.models import SHORT

test_interop = as_tests(on_models(interop.CHECK, known(), SHORT.values(), interop.measured))
