"""The forward of adapters' DoRA multiplies the bias by m/‖V‖, too; it should leave it alone, as merge_adapter does, so that a model is
another one once it is merged.

The size is the relative difference of a layer's outputs before and after, with alpha = r; all of BERT's layers have a bias.
"""

import adapters
import torch
from transformers import BertConfig, BertModel

for bias in (0.0, 0.1):
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    adapters.init(model)
    model.add_adapter("dora", config=adapters.DoRAConfig(r=4, alpha=4))
    model.set_active_adapters("dora")
    layer = model.encoder.layer[0].attention.self.query
    layer.bias.data = bias * torch.randn(32)
    layer.loras["dora"].lora_B.data = 0.1 * torch.randn(32, 4)
    x = torch.randn(1, 64, 32)
    trained = layer(x)
    model.merge_adapter("dora")
    size = ((layer(x) - trained).norm() / trained.norm()).item()
    print(f"bias of {bias}: merged, it is {size:.2g} off")
print(size)
