"""merge_adapter merges adapters' DoRA without alpha/r; the merged model should be the one that was trained.

The size is the relative difference of a layer's outputs before and after, with alpha = 4 r.
"""

import adapters
import torch
from transformers import BertConfig, BertModel

sizes = {}
for alpha in (4, 16):
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    adapters.init(model)
    model.add_adapter("dora", config=adapters.DoRAConfig(r=4, alpha=alpha))
    model.set_active_adapters("dora")
    layer = model.encoder.layer[0].attention.self.query
    layer.bias.data.zero_()
    layer.loras["dora"].lora_B.data = 0.1 * torch.randn(32, 4)
    x = torch.randn(1, 64, 32)
    trained = layer(x)
    model.merge_adapter("dora")
    sizes[alpha] = ((layer(x) - trained).norm() / trained.norm()).item()
    print(f"alpha = {alpha}, r = 4: merged, it is {sizes[alpha]:.2g} off")
print(sizes[16])
