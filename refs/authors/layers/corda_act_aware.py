"""ASVD with a residual and an exact decomposition, as CorDA's authors build it beside their own method. The bias is trained, as by their script."""

from torch import nn

from refs import lora
from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers import asvd
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed


def refuses(case: Case) -> str | None:
    """Options, base layers and data that the authors' code does not take."""
    return asvd.unfit(case, "CorDA's code") if case.option("residual", True) else "CorDA's code always keeps the residual"


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Their sizes of the inputs by their hooks, then their decomposition, told ASVD's default power, for theirs is 1."""
    layer = asvd.calibrated(code, "cordalib/act_aware_utils.py", case, numbers)
    adapt = code.module("cordalib/decomposition.py").decompose_to_adapter
    seed(case)
    made: nn.Module = adapt(layer, act_aware=True, alpha=case.option("act_alpha", 0.5), r=case.rank, first_eigen=True)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("Linear" in name)
    root = lora.scale(case) ** 0.5
    return Built(made, dict(made.named_parameters()), caller(made, case, "inp"), {"lora_A": root, "lora_B": root})
