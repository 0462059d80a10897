"""`save_pretrained` of a LoRA with `lora_bias=True` warns that its biases "have invalid shape" and blames sharding: a bias has one dimension
and cannot have another. The file is right. Nothing should be said.

The size is the number of tensors that the warning names.
"""

import tempfile
import warnings

import peft
import torch

torch.manual_seed(0)
model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 6)), peft.LoraConfig(r=2, lora_bias=True, target_modules=["0"]))
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model.save_pretrained(folder)
told = [str(warning.message) for warning in said if "invalid shape" in str(warning.message)]
print(*told, sep="\n")
print(float(len(told)))
