"""peft's IA3 divides by l + 1e-8 to unmerge, so that the weight does not come back, and is lost where l is 0; it
should be what it was before the merge.

The size is the relative error of the row whose gain is 0.
"""

import torch
from peft import IA3Config, get_peft_model
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 8, bias=False).double())
model = get_peft_model(model, IA3Config(target_modules=["0"], feedforward_modules=[]))
layer = model.base_model.model[0]
weight = layer.base_layer.weight.data.clone()
layer.ia3_l["default"].data = torch.linspace(0, 1.4, 8, dtype=torch.float64).reshape(8, 1)
model.merge_adapter()
model.unmerge_adapter()
error = (layer.base_layer.weight.data - weight).norm(dim=1) / weight.norm(dim=1)
print(f"weight after merge and unmerge: {error[1:].max():.2g} off where l ≥ 0.2, {error[0]:.2g} where l = 0; should be 0")
print(error[0].item())
