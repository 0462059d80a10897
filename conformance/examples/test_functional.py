"""A function of yours: is it IA3? Its parameters need a module to live in."""

import torch
from torch import nn
from torch.nn.functional import linear

from conformance import certify


def scaled(x, weight, bias, g):
    """y = (x Wᵀ + b) ∘ g."""
    return linear(x, weight, bias) * g


def layer(base, case):
    if case.layer == "conv1d" or case.adapter_dtype:
        raise NotImplementedError("no Conv1D, and one dtype")
    module = nn.Module()
    module.base, module.g = base, nn.Parameter(torch.ones(case.d_out, dtype=base.weight.dtype))
    module.forward = lambda x: scaled(x, base.weight, base.bias, module.g)
    return module


test_scaled = certify.tests(layer, "ia3", {"lora_g": "g"}, references=["closed form", "peft"], name="functional-ia3")
