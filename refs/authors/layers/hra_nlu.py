"""HRA's `HRALinear`, as its authors use it for language understanding."""

from types import SimpleNamespace
from unittest import mock

from torch import nn

from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed


def lacks(case: Case) -> str | None:
    """Base layers, options and defaults that none of the authors' layers has."""
    if case.layer != "linear":
        return "the authors' layer adapts nn.Linear only"
    if case.rank is None:
        return "the authors' layer has no default rank"
    if case.adapter_dtype:
        return "the adapter has the base's dtype here"
    return has_no(case, "the authors' layer has")


def refuses(case: Case) -> str | None:
    """What the layer lacks; odd ranks, too."""
    odd = "the authors' start leaves the last vector of an odd rank out" if (case.rank or 0) % 2 else None
    return lacks(case) or odd


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Without the base weight's draws, which come first there."""
    hra = code.module("nlu/adapterlib/layers.py", "hra_nlu_layers")
    config = SimpleNamespace(hra=SimpleNamespace(r=case.rank, apply_GS=False))
    with mock.patch.object(nn.Linear, "reset_parameters"):
        seed(case)
        layer = hra.HRALinear(case.d_in, case.d_out, config, bias=case.bias)
    layer.to(case.torch_dtype).load_state_dict(base_layer(case, numbers.weight, numbers.bias).state_dict(), strict=False)
    for name, parameter in layer.named_parameters():  # as the authors' run.py does
        parameter.requires_grad_(name.endswith("hra_u"))
    return Built(layer, dict(layer.named_parameters()))
