"""In bfloat16, peft's PiSSA, OLoRA and CorDA form the residual from factors that are rounded afterwards; it should be
formed from the factors as they are stored.

The size is the error of W_res + s·BA over the smallest possible one, the least of the three methods; 1 would be
right.
"""

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

ratios = []
for start in ("pissa", "olora", "corda"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 96, bias=False)).bfloat16()
    weight = model[0].weight.data.clone().double()
    more = {"corda_config": CordaConfig()} if start == "corda" else {}
    config = LoraConfig(r=16, lora_alpha=32, target_modules=["0"], init_lora_weights=start, **more)
    if start == "corda":
        x = torch.randn(512, 128).bfloat16()
        preprocess_corda(model, config, lambda model=model, x=x: model(x))
    layer = get_peft_model(model, config).base_model.model[0]

    A, B = (factors["default"].weight.data.double() for factors in (layer.lora_A, layer.lora_B))
    product = 2.0 * B @ A
    error = (layer.base_layer.weight.data.double() + product - weight).norm() / weight.norm()
    possible = ((weight - product).bfloat16().double() + product - weight).norm() / weight.norm()
    print(f"{start}: W_res + s·BA is {error:.2g} off; from the stored factors {possible:.2g}")
    ratios.append((error / possible).item())
print(min(ratios))
