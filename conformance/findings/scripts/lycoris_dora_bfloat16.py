"""LyCORIS' DoRA on a bfloat16 model raises in its forward, because its float32 magnitudes make a float32 weight of the layer's; it
should compute, as LoRA on the same model does.
"""

import torch
from lycoris import create_lycoris

for decompose in (False, True):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 16)).bfloat16()
    network = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2, algo="lora", dora_wd=decompose)
    network.apply_to()
    try:
        model(torch.randn(8, 24).bfloat16())
        size = 0.0
    except RuntimeError as error:
        print(f"dora_wd={decompose} raises: {error}")
        size = float("inf")
print(size)
