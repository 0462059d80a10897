"""A loralib layer that is loaded while merged, in eval mode, takes the loaded weight for the merged one, so that it
computes without the adapter and train() subtracts BA from a weight that never held it; it should compute what was
saved.

The size is the relative error of the base weight after train().
"""

import loralib
import torch

torch.manual_seed(0)
trained = loralib.Linear(24, 16, r=4, lora_alpha=4)
trained.lora_B.data = 0.4 * torch.randn(16, 4)
weight, checkpoint = trained.weight.data.clone(), trained.state_dict()

layer = loralib.Linear(24, 16, r=4, lora_alpha=4)
layer.eval()
layer.load_state_dict(checkpoint)
x = torch.randn(64, 24)
right = trained(x)
print(f"output in eval mode: {((layer(x) - right).norm() / right.norm()).item():.2g} off, should be 0")
layer.train()
size = ((layer.weight.data - weight).norm() / weight.norm()).item()
print(f"base weight after train(): {size:.2g} off, should be 0")
print(size)
