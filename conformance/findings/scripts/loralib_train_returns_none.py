"""train() and eval() of a loralib layer return None; they should return the layer, as those of every torch module do,
so that calls can be chained.
"""

import loralib
import torch

torch.manual_seed(0)
layer = loralib.Linear(24, 16, r=4)
try:
    layer.eval()(torch.ones(2, 24))
    size = 0.0
except TypeError as error:
    print("layer.eval()(x) raises:", error)
    size = float("inf")
print(size)
