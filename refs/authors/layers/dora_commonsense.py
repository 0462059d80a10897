"""DoRA's `Linear` in the authors' fork of peft for commonsense reasoning, which is loaded under another name."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn

from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed

FORK = "commonsense_reasoning/peft/src/peft"


def lacks(case: Case) -> str | None:
    """Base layers and options that both forks lack."""
    if case.layer != "linear":
        return "the authors' fork adapts nn.Linear only"
    if case.adapter_dtype:
        return "the adapter has the base's dtype here"
    return has_no(case, "the authors' fork has", known=("dropout",))


def refuses(case: Case) -> str | None:
    """What the fork lacks; defaults, too."""
    if case.rank is None or case.alpha is None:
        return "the fork's config has no default alpha"
    return lacks(case)


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """With the norm detached, as is its default."""
    return adapted(code, case, numbers, simple=True)


def adapted(code: Code, case: Case, numbers: Problem, *, simple: bool) -> Built:
    """Adapted by the fork's own model, which starts the magnitude; without the base layer's draws, which come first there.

    simple: the fork's `dora_simple`.
    """
    fork = code.package(FORK, "dora_commonsense_fork")
    config = fork.DoraConfig(
        r=case.rank,
        lora_alpha=case.alpha,
        lora_dropout=case.option("dropout", 0.0),
        dora_simple=simple,
        target_modules=["layer"],
    )
    host = nn.ModuleDict({"layer": base_layer(case, numbers.weight, numbers.bias)})
    with default_dtype(case.torch_dtype):
        fork.DoraModel(config, host)
    layer = host.get_submodule("layer")
    with mock.patch.object(nn.Linear, "reset_parameters"):
        seed(case)
        layer.reset_parameters()  # type: ignore[operator]
    return Built(layer, dict(layer.named_parameters()))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside has this dtype: a magnitude made in float32 and widened afterwards would stay rounded."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
