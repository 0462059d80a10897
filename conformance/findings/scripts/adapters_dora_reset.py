"""reset_adapter does not give the weight back after merge_adapter with DoRA: it computes something and drops it; the weight should be
what it was.

The size is the relative error of the weight after merge_adapter and reset_adapter.
"""

import adapters
import torch
from transformers import BertConfig, BertModel

for config in ("LoRAConfig", "DoRAConfig"):
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    adapters.init(model)
    model.add_adapter("one", config=getattr(adapters, config)(r=4, alpha=4))
    layer = model.encoder.layer[0].attention.self.query
    layer.loras["one"].lora_B.data = 0.1 * torch.randn(32, 4)
    weight = layer.weight.data.clone()
    model.merge_adapter("one")
    model.reset_adapter()
    size = ((layer.weight - weight).norm() / weight.norm()).item()
    print(f"{config}: {size:.2g} off")
print(size)
