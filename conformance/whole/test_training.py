"""Twenty steps of AdamW on a tiny Llama, and of both optimizers with LoRA; a hundred of everything: `hundred_steps.py`."""

from functools import partial

from conformance.whole.cell import on_models, tests
from conformance.whole.training import measured
from conformance.whole.variants import beside_peft
from refs.models import MODELS

STEPS = 20
OPTIMIZERS = {"llama": ("AdamW", "SGD")}

test_training = tests(on_models("training", beside_peft(), [MODELS["llama"]], partial(measured, STEPS, OPTIMIZERS)))
