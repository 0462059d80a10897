"""DeLoRA's `Linear` with frozen copies that are copies: what the paper means, and what the author's code is after a move to another device."""

from typing import Any
from unittest import mock

import torch
from torch import nn

from refs.authors.built import Built
from refs.authors.code import Code, stand_in
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed


def refuses(case: Case) -> str | None:
    """Options and base layers that it does not have, and a start at which it divides by zero."""
    if case.layer != "linear":
        return "the author's layer adapts nn.Linear only"
    if case.rank is None:
        return "the author's default rank is 0: a plain linear layer, which cannot be put into train mode"
    if case.adapter_dtype:
        return "the author's adapter has the base's dtype"
    if case.state == "init" and case.option("init", "zero") == "zero":
        return "the author divides by the bare norms, 0/0 at B = 0; its own B starts random"
    return None


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Its copies are taken again, with memory of their own; every dtype has the start of float32."""
    layer = started(code, case)
    for copy in (layer.frozen_C, layer.frozen_D):
        copy.data = copy.data.clone()
    return finished(layer.to(case.torch_dtype), case, numbers)


def started(code: Code, case: Case) -> Any:
    """The author's layer at its own init, as its code leaves it, without the base weight's draws, which come first there."""
    peft = "author_peft"
    given = code.extract("peft/src/peft/utils/other.py", ["transpose"], {})
    stand_in(f"{peft}.utils", PeftConfig=object, PeftType=None, **given)
    stand_in(f"{peft}.tuners")
    delora = code.module("peft/src/peft/tuners/delora.py", f"{peft}.tuners.delora")
    told = {"delora_lambda": float(dict(case.options)["lambda0"])} if "lambda0" in dict(case.options) else {}
    layer = delora.Linear(
        case.d_in, case.d_out, r=case.rank, delora_dropout=case.option("dropout", 0.0), bias=case.bias, **told
    )  # fmt: skip
    with mock.patch.object(nn.Linear, "reset_parameters"):
        seed(case)
        layer.reset_parameters()
    delora.mark_only_delora_as_trainable(layer)
    return layer


def finished(layer: Any, case: Case, numbers: Problem) -> Built:
    """On the case's weight and bias, with the norms that its forward computes."""
    layer.load_state_dict(base_layer(case, numbers.weight, numbers.bias).state_dict(), strict=False)
    norms = torch.linalg.vector_norm(layer.weight.data, dim=0)
    return Built(layer, dict(layer.named_parameters()) | {"norms of weight": norms})
