"""ASVD's truncated layer, as its author builds it from calibration data.

It has no scale: √s goes into each of its factors, which is where its formula would put it. Nothing is left of the weight, so that a
residual of zeros is supplied; the author trains nothing, here the two factors are said to be trained.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from refs import lora
from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.calibration import model_inputs, pair
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed

OPTIONS = ("scaling_method", "act_alpha", "residual")


def refuses(case: Case) -> str | None:
    """Options, base layers and data that the author's code does not take."""
    return "ASVD's author keeps no residual" if case.option("residual", True) else unfit(case, "ASVD's author")


def unfit(case: Case, who: str) -> str | None:
    """What neither code that computes ASVD takes."""
    if case.layer != "linear":
        return f"{who} adapts nn.Linear only"
    if case.rank is None:
        return f"{who} has no default rank of a layer"
    if case.adapter_dtype:
        return f"{who} gives the factors the base's dtype"
    if case.data == "padded":
        return f"{who} fails on batches of several sequences and has no padding mask"
    if case.weight.startswith("minilm:"):
        return "what is left of a pretrained layer would make a trace larger than all others together"
    return has_no(case, f"{who} has", known=OPTIONS)


def calibrated(code: Code, file: str, case: Case, numbers: Problem) -> nn.Module:
    """The layer with what their hooks saw of its input, in a model of two layers. Their function writes a cache into the current folder."""
    model: Any = pair(case, numbers.weight, numbers.bias)
    model.config, model.device = SimpleNamespace(_name_or_path="pair"), case.device
    Path("cache").mkdir(exist_ok=True)
    method = case.option("scaling_method", "abs_mean")
    code.module(file).calib_input_distribution(model, model_inputs(case, numbers.data), method, use_cache=False)
    layer: nn.Module = model.layer
    return layer


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """The ratio of parameters that comes to the case's rank."""
    layer = calibrated(code, "act_aware_utils.py", case, numbers)
    assert case.rank
    ratio = (case.rank + 0.5) * (case.d_in + case.d_out) / (case.d_in * case.d_out)
    seed(case)
    made: nn.Module = code.module("modules/svd_linear.py").SVDLinear.from_linear(
        layer, ratio, act_aware=True, alpha=case.option("act_alpha", 0.5)
    )
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name != "ALinear.bias")
    nothing = nn.Parameter(torch.zeros(case.d_out, case.d_in, dtype=case.torch_dtype), requires_grad=False)
    root = lora.scale(case) ** 0.5
    tensors = dict(made.named_parameters()) | {"nothing": nothing}
    return Built(made, tensors, caller(made, case, "inp"), {"lora_A": root, "lora_B": root})
