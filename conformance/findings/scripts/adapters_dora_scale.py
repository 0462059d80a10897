"""adapters' DoRA divides by the norms of W + BA where its weight is m (W + alpha/r BA); it should divide by those of W + alpha/r BA,
so that m is the length of every row, which is the method.

The size is the relative error of the rows' lengths, with alpha = 4 r.
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
    weight = layer(torch.eye(32)[None])[0].T
    m = layer.loras["dora"].m.weight.flatten()
    sizes[alpha] = ((weight.norm(dim=1) - m).norm() / m.norm()).item()
    print(f"alpha = {alpha}, r = 4: lengths are {sizes[alpha]:.2g} off")
print(sizes[16])
