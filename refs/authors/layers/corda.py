"""CorDA's adapter, as its authors build it from calibration data.

It has no scale: √s goes into each of its factors, which is where its formula would put it. The bias is trained, as by the authors' script.
"""

from types import SimpleNamespace
from typing import Any

from torch import nn

from refs import lora
from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.calibration import model_inputs, pair
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed


def refuses(case: Case) -> str | None:
    """Options, base layers and data that the authors' code does not take."""
    if case.layer != "linear":
        return "CorDA's authors adapt nn.Linear only"
    if case.rank is None:
        return "CorDA's authors have no default rank of a layer"
    if case.adapter_dtype:
        return "CorDA's adapter has the base's dtype"
    if case.data == "padded":
        return "CorDA's authors fail on batches of several sequences and have no padding mask"
    if case.weight.startswith("minilm:"):
        return "the residual of a pretrained layer would make a trace larger than all others together"
    return has_no(case, "CorDA's authors have", known=("mode",))


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Their covariance by their hooks in a model of two layers, then their decomposition."""
    model: Any = pair(case, numbers.weight, numbers.bias)
    model.config, model.device = SimpleNamespace(_name_or_path="pair"), case.device
    seed(case)
    code.module("cordalib/act_aware_utils.py").calib_cov_distribution(model, model_inputs(case, numbers.data))
    adapt = code.module("cordalib/decomposition.py").decompose_to_adapter
    layer: nn.Module = adapt(model.layer, cov_aware=True, r=case.rank, first_eigen=case.option("mode", "ipm") == "ipm")
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_("Linear" in name)
    root = lora.scale(case) ** 0.5
    return Built(layer, dict(layer.named_parameters()), caller(layer, case, "inp"), {"lora_A": root, "lora_B": root})
