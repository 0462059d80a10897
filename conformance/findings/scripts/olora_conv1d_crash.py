"""peft's OLoRA on a Conv1D that is not square is built and then fails in forward, because its factors are those of
the transposed weight; it should start as the identity.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

torch.manual_seed(0)
config = LoraConfig(r=4, target_modules=["0"], init_lora_weights="olora", fan_in_fan_out=True)
model = get_peft_model(nn.Sequential(Conv1D(16, 24)), config)
try:
    model(torch.ones(2, 24))
    size = 0.0
except RuntimeError as error:
    print("forward raises:", error)
    size = float("inf")
print(size)
