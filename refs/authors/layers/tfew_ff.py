"""The same `LoRALinear` as `tfew`, with the gate on the input trained."""

from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers import tfew
from refs.case import Case
from refs.problem import Problem

refuses = tfew.refuses


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """T-Few's own configuration trains none on the input: it gates the output of the layer before instead."""
    return tfew.gated(code, case, numbers, "input")
