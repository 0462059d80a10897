"""peft's CorDA calibrates on one sequence at a time only, because its hook transposes the batch as if it were a
matrix; the tokens of all sequences should count.
"""

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

size = 0.0
for sequences in (1, 2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8))
    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights="corda", corda_config=CordaConfig())
    try:
        preprocess_corda(model, config, lambda model=model, n=sequences: model(torch.randn(n, 64, 12)))
        print(f"{sequences} × 64 tokens: calibrated")
    except RuntimeError as error:
        print(f"{sequences} × 64 tokens: {error}")
        size = float("inf")
print(size)
