"""EVA's adapter, as its authors build it from calibration data: their decomposition, then peft's LoRA with a rank for each layer."""

import importlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from refs.authors.built import Built, has_no
from refs.authors.code import Code
from refs.calibration import Batch, pair
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed

IGNORED = -100  # the label of a token that is not trained on
OPTIONS = {"dropout", "rho", "whiten", "adjust_scaling_factors"}  # the last changes nothing there: they have no such adjustment
TARGETS = ["layer", "beside"]


def refuses(case: Case) -> str | None:
    """Options and base layers that the authors' code does not take."""
    if case.layer != "linear":
        return "EVA's authors adapt nn.Linear only"
    if case.rank is None:
        return "EVA's authors have other defaults: rank 16, alpha 1"
    if case.adapter_dtype:
        return "EVA's adapter has the base's dtype"
    return has_no(case, "EVA's authors have", known=OPTIONS)


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Directions from the data, drawn with the global generator; then an adapter with their number."""
    code.package("src", "src")
    model: Any = pair(case, numbers.weight, numbers.bias)
    seed(case)
    directions, _ = importlib.import_module("src.svd").compute_svd(
        model,
        [_inputs(case, batch) for batch in numbers.data],
        rank=case.rank,
        rho=case.option("rho", 2.0),
        whiten=case.option("whiten", False),
        target_modules=TARGETS,
    )
    asked = SimpleNamespace(
        adapter_type="lora",
        lora_init="eva",
        target_modules=TARGETS,
        lora_alpha=case.alpha,
        lora_dropout=case.option("dropout", 0.0),
        lora_dim=case.rank,
        redistribute=True,
        n_components_for_init=None,
    )
    adapted = importlib.import_module("src.utils").get_adapter_model(model, asked, directions)
    layer = adapted.base_model.model.layer
    return Built(layer, dict(layer.named_parameters()), caller(layer, case, "x"))


def _inputs(case: Case, batch: Batch) -> dict[str, Tensor]:
    """A batch as their loader gives it."""
    everything = torch.ones(batch.layer.shape[:2], dtype=torch.bool)
    attention = everything if batch.attention is None else batch.attention
    labels = everything if batch.labels is None else batch.labels
    x, z = (tokens.to(case.torch_dtype) for tokens in (batch.layer, batch.beside))
    return {"x": x, "z": z, "attention_mask": attention.long(), "labels": torch.where(labels, 0, IGNORED)}
