"""Every variant that peft has, on every whole model, beside peft."""

from conformance.whole.cell import as_tests, on_models
from conformance.whole.model import measured
from conformance.whole.variants import beside_peft
from refs.models import MODELS

test_model = as_tests(on_models("model", beside_peft(), MODELS.values(), measured))
