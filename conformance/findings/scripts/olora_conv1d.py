"""peft's OLoRA on a square Conv1D, the layer of GPT-2, changes the model before any training, without a word, because
it decomposes the transposed weight; it should start as the identity.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

torch.manual_seed(0)
model = nn.Sequential(Conv1D(24, 24))
x = torch.randn(64, 24)
with torch.no_grad():
    right = model(x)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"], init_lora_weights="olora", fan_in_fan_out=True)
    got = get_peft_model(model, config)(x)
size = ((got - right).norm() / right.norm()).item()
print(f"output at init: {size:.2g} off, should be 0")
print(size)
