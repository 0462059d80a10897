"""DeLoRA's `Linear` as the author's code builds it on the CPU: the frozen copies are the trained tensors themselves."""

import torch

from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers import delora
from refs.case import Case
from refs.problem import Problem

refuses = delora.refuses


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Built in its dtype: a cast afterwards would give the copies memory of their own."""
    torch.set_default_dtype(case.torch_dtype)
    try:
        return delora.finished(delora.started(code, case), case, numbers)
    finally:
        torch.set_default_dtype(torch.float32)
