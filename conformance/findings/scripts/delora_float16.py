"""peft's DeLoRA in float16 has no finite gradient at its default start, because it divides λ by r·‖A‖·‖B‖ in one go
and clamps ‖B‖ at 1e-4 there; each norm should divide its own factor.
"""

import torch
from peft import DeloraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(24, 16)).half()
model = get_peft_model(base, DeloraConfig(target_modules=["0"]), autocast_adapter_dtype=False)
model(torch.randn(8, 24).half()).sum().backward()
finite = {name: p.grad.isfinite().float().mean().item() for name, p in model.named_parameters() if p.requires_grad}
for name, share in finite.items():
    print(f"{name}: {share:.0%} of the gradient is finite, should be 100%")
print(float("inf") if min(finite.values()) < 1 else 0.0)
