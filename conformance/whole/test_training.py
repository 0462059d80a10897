"""Twenty steps of AdamW on a tiny Llama; a hundred, SGD and MiniLM are in `hundred_steps.py`."""

from functools import partial

from conformance.whole.cell import as_tests, on_models
from conformance.whole.training import measured
from conformance.whole.variants import beside_peft
from refs.models import MODELS

STEPS = 20
OPTIMIZERS = {"llama": ("AdamW",)}

test_training = as_tests(on_models("training", beside_peft(), [MODELS["llama"]], partial(measured, STEPS, OPTIMIZERS)))
