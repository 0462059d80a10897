"""peft's EVA with whiten=True divides A by singular values that grow with the number of passes over the data, which
it goes on with until two steps look alike; the length of a row should be 1/√S of the data.

The size is the relative error of the lengths of the rows of A.
"""

import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 12) * torch.logspace(1, -1, 12)
config = LoraConfig(r=2, target_modules=["0"], init_lora_weights="eva", eva_config=EvaConfig(whiten=True, rho=1.0))
model = get_peft_model(nn.Sequential(nn.Linear(12, 8)), config)
own = {"forward_fn": lambda model, x: model(x), "prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None}
initialize_lora_eva_weights(model, [x], show_progress_bar=False, **own)

got = model.base_model.model[0].lora_A["default"].weight.data.norm(dim=1)
right = torch.linalg.svdvals(x - x.mean(0))[:2].rsqrt()
print("row norms:", got.tolist(), "should be", right.tolist())
print(((got - right).norm() / right.norm()).item())
