"""HRA on a layer that bitsandbytes quantised to 8 bits takes the integer codes for the weight: it never multiplies them with their scales,
and says nothing. At its start it should be the layer that it adapts.
"""

import bitsandbytes
import peft
import torch

torch.manual_seed(0)
layer = bitsandbytes.nn.Linear8bitLt(64, 48, bias=False, has_fp16_weights=False)
layer.load_state_dict({"weight": torch.randn(48, 64) / 8})
layer = layer.to("cpu")
layer(torch.randn(2, 64))  # now it is quantised
x = torch.randn(5, 64)
before = layer(x)
model = peft.get_peft_model(torch.nn.Sequential(layer), peft.HRAConfig(r=4, target_modules=["0"]))
after = model(x).detach()
print(f"base {before[0, :3].tolist()}, with HRA at its start {after[0, :3].tolist()}")
print(float((after - before).norm() / before.norm()))
