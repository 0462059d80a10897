"""The same fork as `dora_commonsense`, with `dora_simple` off: the norm is part of the gradient, as in the paper before its §4.3."""

from refs.authors.built import Built
from refs.authors.code import Code
from refs.authors.layers import dora_commonsense
from refs.case import Case
from refs.problem import Problem

refuses = dora_commonsense.refuses


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """With the norm not detached."""
    return dora_commonsense.adapted(code, case, numbers, simple=False)
