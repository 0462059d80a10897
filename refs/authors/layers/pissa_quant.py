"""PiSSA's start from the authors' `pissa_quant`, the only code of theirs that is not peft's, in a LoRA layer of ours.

Its s is 1. At another, each factor is divided by √s, so that s·B₀A₀ and the residual stay what the authors compute.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from refs import lora
from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.case import Case
from refs.problem import Problem


class Around(nn.Module):
    """LoRA on a frozen residual."""

    def __init__(self, residual: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(residual, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.lora_A, self.lora_B, self.scale = nn.Parameter(A), nn.Parameter(B), scale

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out)."""
        return linear(x, self.weight, self.bias) + self.scale * linear(linear(x, self.lora_A), self.lora_B)


def refuses(case: Case) -> str | None:
    """What is not a start, and starts that it does not compute."""
    if case.layer != "linear":
        return "the authors' pissa_quant takes a weight (d_out, d_in), told here for nn.Linear only"
    if case.rank is None:
        return "the authors' pissa_quant has a default rank for large models only, 64"
    if case.adapter_dtype:
        return "only the authors' start is theirs: of adapter dtypes it says nothing"
    if case.weight.startswith("minilm:"):
        return "the residual of a pretrained layer would make a trace larger than all others together"
    return has_no(case, "the authors' pissa_quant has", known=("rslora",))


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Its round trip through four bits gives every number back; it keeps float32, as the real one does."""

    def unchanged(weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight, weight.to(torch.float32)

    given = {"torch": torch, "quantize_and_dequantized": unchanged}
    quantise = code.extract("utils/init_qpissa.py", ["pissa_quant"], given)["pissa_quant"]
    _, residual, A, B = quantise(numbers.weight.to(case.torch_dtype), r=case.rank, niter=1)
    root = lora.scale(case) ** 0.5
    layer = Around(residual, numbers.bias, A / root, B / root, lora.scale(case)).to(case.torch_dtype)
    return Built(layer, dict(layer.named_parameters()))
