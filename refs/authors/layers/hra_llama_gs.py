"""The other OFT layer for LLaMA: reflections of the output along vectors that Gram–Schmidt made orthogonal."""

from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers import hra_llama_eps
from refs.case import Case
from refs.problem import Problem


def refuses(case: Case) -> str | None:
    """The method's own start, too."""
    if case.state == "init":
        return "Gram–Schmidt of the method's equal pairs is undefined (0/0)"
    return hra_llama_eps.refuses(case)


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Its own start is [I; 0], which negates the first r outputs."""
    return hra_llama_eps.reflecting_outputs(code, case, numbers, "llama/peft/oft/layer_GS_HRA.py")
