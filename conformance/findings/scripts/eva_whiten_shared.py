"""peft's EVA with whiten=True divides A by the square root of the singular values in place, once for every layer that
has the same input (q, k and v: three times); it should do so once.

The size is the relative error of A for v beside q and k, against v alone.
"""

import torch
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from torch import nn


class Attention(nn.Module):
    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(12, 8))

    def forward(self, x):
        return sum(layer(x) for layer in self.children())


def factor(names):
    torch.manual_seed(0)
    x = torch.randn(64, 12) * torch.logspace(1, -1, 12)
    config = LoraConfig(r=2, target_modules=names, init_lora_weights="eva", eva_config=EvaConfig(whiten=True, rho=1.0))
    model = get_peft_model(Attention(names), config)
    own = {"forward_fn": lambda model, x: model(x), "prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None}
    initialize_lora_eva_weights(model, [x], show_progress_bar=False, **own)
    return model.base_model.model.v.lora_A["default"].weight.data


right, got = factor(["v"]), factor(["q", "k", "v"])
print("norms of v's rows:", got.norm(dim=1).tolist(), "should be, as without q and k,", right.norm(dim=1).tolist())
print(((got - right).norm() / right.norm()).item())
