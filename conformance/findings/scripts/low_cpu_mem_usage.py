"""An adapter of peft's PiSSA or OLoRA cannot be loaded with low_cpu_mem_usage=True, because its start from the weight
is computed for empty tensors; loading should give the adapter that was saved.
"""

import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16))


size = 0.0
for start in ("pissa", "olora"):
    with tempfile.TemporaryDirectory() as folder:
        get_peft_model(base(), LoraConfig(r=4, target_modules=["0"], init_lora_weights=start)).save_pretrained(folder)
        try:
            PeftModel.from_pretrained(base(), folder, low_cpu_mem_usage=True)
        except RuntimeError as error:
            print(f"{start}: loading raises: {error}")
            size = float("inf")
print(size)
