"""peft's DoRA takes W x as (W x + b) − b, which cancels where the bias is large; it should take W x without the bias.

The size is the relative error of m's gradient in bfloat16 with a bias of 100, against float64; without a bias it is
0.004.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def gradient(model, x, weights):
    """Of DoRA's magnitude."""
    (model(x) * weights).sum().backward()
    return model.base_model.model[0].lora_magnitude_vector["default"].weight.grad.double()


for bias in (0.0, 100.0):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 16))
    base[0].bias.data.fill_(bias)
    config = LoraConfig(r=4, target_modules=["0"], use_dora=True)
    model = get_peft_model(base.bfloat16(), config, autocast_adapter_dtype=False)
    x, weights = torch.randn(64, 24).bfloat16(), torch.randn(64, 16).bfloat16()
    right = gradient(copy.deepcopy(model).double(), x.double(), weights.double())
    size = ((gradient(model, x, weights) - right).norm() / right.norm()).item()
    print(f"gradient of m in bfloat16, bias {bias:g}: {size:.2g} off")
print(size)
