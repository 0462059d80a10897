"""loralib's `Linear`, as its authors publish it."""

from unittest import mock

from torch import nn

from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed


def refuses(case: Case) -> str | None:
    """Options and base layers that loralib does not have."""
    if case.layer != "linear":
        return "loralib adapts nn.Linear only"
    if case.rank is None:
        return "loralib's default rank is 0: a plain linear layer"
    if case.adapter_dtype:
        return "loralib's adapter has the base's dtype"
    return has_no(case, "loralib has", known=("dropout",))


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Without the base weight's draws, which come first there."""
    loralib = code.module("loralib/layers.py")
    layer = loralib.Linear(
        case.d_in, case.d_out, r=case.rank, lora_alpha=case.alpha, lora_dropout=case.option("dropout", 0.0), bias=case.bias
    )
    with mock.patch.object(nn.Linear, "reset_parameters"):
        seed(case)
        layer.reset_parameters()
    layer.to(case.torch_dtype).load_state_dict(base_layer(case, numbers.weight, numbers.bias).state_dict(), strict=False)
    for name, parameter in layer.named_parameters():  # as loralib's mark_only_lora_as_trainable does
        parameter.requires_grad_("lora_" in name)
    return Built(layer, dict(layer.named_parameters()))
