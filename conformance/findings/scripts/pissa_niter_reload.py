"""A pissa_niter adapter of peft, saved and loaded on the same base, computes something else, without a word, because
loading draws the randomised decomposition anew; it should compute what was saved.
"""

import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16, bias=False))


x = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
model = get_peft_model(base(), LoraConfig(r=4, target_modules=["0"], init_lora_weights="pissa_niter_4"))
with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    saved = model(x)
    same = base()
    torch.manual_seed(2)  # another process has another state
    loaded = PeftModel.from_pretrained(same, folder)(x)
size = ((loaded - saved).norm() / saved.norm()).item()
print(f"output after loading: {size:.2g} off, should be 0")
print(size)
