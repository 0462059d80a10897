"""LyCORIS accepts a dropout for LoRA and drops nothing, without a word, unless bypass_mode is on; it should drop, or say that it
does not, as it does of DoRA.

The size is the share of 100 forwards in train mode that are what eval mode gives; 0 would be right.
"""

import torch
from lycoris import create_lycoris

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(24, 16))
network = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2, algo="lora", dropout=0.9)
network.apply_to()
for lora in network.loras:
    lora.lora_up.weight.data = torch.randn(16, 4)

x = torch.randn(8, 24)
network.eval()
expected = model(x)
network.train()
same = sum(torch.equal(model(x), expected) for _ in range(100))
print(f"with a dropout of 0.9, {same} of 100 outputs are those without dropout")
print(same / 100)
