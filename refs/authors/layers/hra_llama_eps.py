"""HRA in the authors' OFT layer for LLaMA: reflections of the output, none of them quite orthogonal. It needs the installed peft."""

from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers.hra_nlu import lacks
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed


def refuses(case: Case) -> str | None:
    """What the layer lacks; and where its vectors cannot be those of the method."""
    if case.d_in != case.d_out:
        return "the authors' layer reflects the output: its vectors have d_out numbers, the method's d_in"
    return lacks(case)


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """With its own default of eps."""
    return reflecting_outputs(code, case, numbers, "llama/peft/oft/layer.py")


def reflecting_outputs(code: Code, case: Case, numbers: Problem, file: str) -> Built:
    """The `Linear` of one of the two files; the base is frozen, as peft's tuner does."""
    oft = code.module(file, "hra_llama_layer")
    base = base_layer(case, numbers.weight, numbers.bias).requires_grad_(False)
    seed(case)
    layer = oft.Linear(base, r=case.rank)
    return Built(layer, dict(layer.named_parameters()))
