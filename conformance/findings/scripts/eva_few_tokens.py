"""peft's EVA never ends if every batch has fewer tokens than rho·r, because it skips them all and begins the data
anew; it should raise.
"""

import torch
from peft import LoraConfig, get_peft_model, initialize_lora_eva_weights
from torch import nn

calls = 0


def forward(model, x):
    """Leave after the data have gone by five times."""
    global calls
    calls += 1
    if calls > 10:
        raise TimeoutError
    return model(x)


torch.manual_seed(0)
batches = [torch.randn(7, 12), torch.randn(7, 12)]
model = get_peft_model(nn.Sequential(nn.Linear(12, 8)), LoraConfig(r=4, target_modules=["0"], init_lora_weights="eva"))  # rho = 2
own = {"forward_fn": forward, "prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None}
try:
    initialize_lora_eva_weights(model, batches, show_progress_bar=False, **own)
    size = 0.0
except ValueError as error:
    print("refused:", error)
    size = 0.0
except TimeoutError:
    print("two batches of 7 tokens where rho·r = 8: still running after five passes, with nothing learnt")
    size = float("inf")
print(size)
