"""An `nn.Module` of yours: is it LoRA?"""

import math

from torch import nn

from conformance import certify


class MyLoRA(nn.Module):
    """y = base(x) + α/r · up(down(dropout(x)))."""

    def __init__(self, base, case):
        super().__init__()
        if case.adapter_dtype or dict(case.options).keys() - {"dropout"}:
            raise NotImplementedError("of the options it has dropout only")
        self.base, self.scale, self.dropout = base, case.alpha / case.rank, nn.Dropout(case.option("dropout", 0.0))
        self.down = nn.Linear(case.d_in, case.rank, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(case.rank, case.d_out, bias=False, dtype=base.weight.dtype)
        start(self, case)

    def forward(self, x):
        return self.base(x) + self.scale * self.up(self.down(self.dropout(x)))


def start(layer, case):
    """Its own init: seeded immediately before, it has to draw what peft draws."""
    layer.down.weight.data = nn.init.kaiming_uniform_(layer.down.weight.data.float(), a=math.sqrt(5)).to(layer.down.weight.dtype)
    nn.init.zeros_(layer.up.weight)


test_my_lora = certify.tests(
    MyLoRA, "lora", {"lora_A": "down.weight", "lora_B": "up.weight"}, reset=start, input_name="x", name="my-lora"
)
