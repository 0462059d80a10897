"""IA3 as T-Few's `LoRALinear` of rank 0 and scaling rank 1, with the gate on the output trained."""

from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed

GATES = {"output": "multi_lora_b", "input": "multi_lora_a"}


def refuses(case: Case) -> str | None:
    """Other layers and options."""
    if case.layer != "linear":
        return "T-Few adapts nn.Linear only"
    if case.adapter_dtype:
        return "T-Few's gates are used in the base's dtype here"
    return has_no(case, "T-Few has")


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """As its configuration `ia3` has it for keys and values."""
    return gated(code, case, numbers, "output")


def gated(code: Code, case: Case, numbers: Problem, side: str) -> Built:
    """With one gate trained; the forward leaves out a gate that is not."""
    tfew = code.module("src/models/lora.py", "tfew_lora")
    base = base_layer(case, numbers.weight, numbers.bias)
    seed(case)
    layer = tfew.LoRALinear(base, rank=0, scaling_rank=1, init_scale=0.0).to(case.torch_dtype)
    for name, parameter in layer.named_parameters():  # as T-Few's get_optimizer does
        parameter.requires_grad_(name == GATES[side])
    return Built(layer, dict(layer.named_parameters()), caller(layer, case, "input"))
