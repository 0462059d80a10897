"""The forward of a torchtune DoRALinear multiplies the bias by m/‖V‖, too; it should leave it alone, as torchtune's merged
checkpoint does, so that a model is another one once it is merged.

The size is the relative difference between the outputs of the layer and of its merged checkpoint. Without a bias there is none;
Qwen2's q, k and v have one.
"""

import torch
from torchtune.modules.peft import DoRALinear, get_merged_lora_ckpt


def difference(bias):
    torch.manual_seed(0)
    layer = DoRALinear(64, 48, rank=4, alpha=8.0, use_bias=True)
    layer.initialize_dora_magnitude()
    layer.lora_b.weight.data = torch.randn(48, 4) / 4
    layer.bias.data = bias * torch.randn(48)
    merged = torch.nn.Sequential(torch.nn.Linear(64, 48))
    merged.load_state_dict(get_merged_lora_ckpt(torch.nn.Sequential(layer).state_dict(), rank=4, alpha=8.0))
    x = torch.randn(32, 64)
    return ((layer(x) - merged(x)).norm() / merged(x).norm()).item()


print(f"without a bias: {difference(0):.2g}")
print(difference(1))
