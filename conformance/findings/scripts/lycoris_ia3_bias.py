"""LyCORIS' IA3 on the output leaves the bias unscaled by default and scales it with bypass_mode; both should be one function, the
scaled output of the layer, as in the authors' T-Few and in peft.

The size is the relative difference between the two modes.
"""

import torch
from lycoris.modules import IA3Module

torch.manual_seed(0)
base = torch.nn.Linear(24, 16)
base.bias.data = torch.randn(16)
scale, x = 0.5 * torch.randn(16), torch.randn(32, 24)
outputs = []
for bypass in (False, True):
    layer = IA3Module("layer", base, bypass_mode=bypass)
    layer.weight.data = scale
    outputs.append(layer(x))
    right = base(x) * (1 + scale)
    print(f"bypass_mode={bypass}: {((outputs[-1] - right).norm() / right.norm()).item():.2g} off (1 + weight) * base(x)")
print(((outputs[0] - outputs[1]).norm() / outputs[1].norm()).item())
