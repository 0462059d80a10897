"""Base layers for a case, with given weight and bias."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from refs.case import Case
from refs.maps import Entry


class OtherLinear(nn.Module):
    """Linear-like without being an `nn.Linear`, as in many model codes; its input is called `hidden_states`."""

    def __init__(self, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out)."""
        return linear(hidden_states, self.weight, self.bias)


def weight_entry(case: Case, name: str) -> Entry:
    """Where a base layer of the case's kind keeps W (d_out, d_in): under this name, transposed by Conv1D."""
    return Entry(name, transpose=case.layer == "conv1d")


INPUT_NAMES = {"linear": "input", "conv1d": "x", "other": "hidden_states"}


def base_layer(case: Case, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A fresh base layer in the case's dtype, holding weight (d_out, d_in) and bias (d_out,); ValueError for an unknown kind."""
    layer: Any
    match case.layer:
        case "linear":
            layer = nn.Linear.__new__(nn.Linear)  # its own init would draw numbers that nobody needs, thousands of times
            nn.Module.__init__(layer)
            layer.in_features, layer.out_features = case.d_in, case.d_out
        case "conv1d":
            layer, weight = Conv1D(case.d_out, case.d_in), weight.T
            if not case.bias:
                raise ValueError("Conv1D always has a bias")
        case "other":
            layer = OtherLinear(case.d_in, case.d_out, case.bias)
        case kind:
            raise ValueError(f"unknown layer kind {kind!r}; known: {', '.join(INPUT_NAMES)}")
    layer.weight = nn.Parameter(weight.to(case.device, case.torch_dtype, copy=True).contiguous())
    layer.bias = None if bias is None else nn.Parameter(bias.to(case.device, case.torch_dtype, copy=True))
    made: nn.Module = layer
    return made
