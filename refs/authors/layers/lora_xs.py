"""LoRA-XS as its author's code makes it of a LoRA layer of the installed peft."""

import importlib
from typing import Any
from unittest import mock

import peft
import torch
import yaml
from torch import nn

from refs.authors.built import Built, has_no
from refs.authors.checkout import verified
from refs.authors.code import Code
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import caller, seed

NAME = "adapted"  # names are matched by their end: "layer" would be peft's "base_layer", too


def refuses(case: Case) -> str | None:
    """Options and base layers that it does not have."""
    if case.layer != "linear":
        return "the author's code initialises nn.Linear only"
    if case.rank is None:
        return "the author's scripts are always told the rank"
    if case.adapter_dtype:
        return "the author's R has torch's default dtype, A and B the base's"
    return has_no(case, "the author's code has", known=("dropout",))


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """With the base's dtype as the default one, which R is made in; without alpha, s = 1 as in the author's script for mathematics."""
    config = peft.LoraConfig(
        r=case.rank, lora_alpha=case.alpha or case.rank, lora_dropout=case.option("dropout", 0.0), target_modules=[NAME]
    )  # fmt: skip
    torch.set_default_dtype(case.torch_dtype)
    try:
        host = peft.get_peft_model(nn.ModuleDict({NAME: base_layer(case, numbers.weight, numbers.bias)}), config)
        _initialise(code, case, host, config)
    finally:
        torch.set_default_dtype(torch.float32)
    layer: Any = host.get_submodule(f"base_model.model.{NAME}")
    return Built(layer, dict(layer.named_parameters()), caller(layer, case, "x"))


def _initialise(code: Code, case: Case, host: Any, config: Any) -> None:
    """The author's own, by the author's own settings; seeded where R is drawn, after what nn.Linear draws for it."""
    code.package("utils", "lora_xs_author")
    author = importlib.import_module("lora_xs_author.initialization_utils")
    settings = yaml.safe_load(verified(code.manifest, "config/reconstruct_config.yaml"))
    kind = settings["reconstruction_type"]
    settings[kind]["rank"] = config.r
    draw = author.init_module_weights

    def seeded(*arguments: Any, **named: Any) -> None:
        seed(case)
        draw(*arguments, **named)

    with mock.patch.object(author, "init_module_weights", seeded):
        author.find_and_initialize(host, {"default": config}, "default", kind, settings, None)
