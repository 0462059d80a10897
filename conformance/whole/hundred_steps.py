"""What takes minutes: a hundred steps of both optimizers on a tiny Llama and on MiniLM, and every variant compiled on every model.

`nox -s training`, or this file named to pytest, which does not collect it by itself.
"""

from functools import partial

from conformance.whole.cell import as_tests, on_models
from conformance.whole.model import every_backend
from conformance.whole.training import measured
from conformance.whole.variants import beside_peft
from refs.models import MODELS

BOTH = ("AdamW", "SGD")
TRAINED = [MODELS["llama"], MODELS["minilm"]]
STEPS = 100

test_training_of_100_steps = as_tests(
    on_models("training of 100 steps", beside_peft(), TRAINED, partial(measured, STEPS, {model.name: BOTH for model in TRAINED}))
)
test_compilation = as_tests(on_models("compilation", beside_peft(), MODELS.values(), every_backend))
