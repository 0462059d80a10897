"""DoRA's `Linear` in the authors' fork of peft for visual instruction tuning."""

from torch import nn

from refs.authors.built import Built
from refs.authors.code import Code, stand_in
from refs.authors.layers.dora_commonsense import default_dtype, lacks
from refs.bases import base_layer
from refs.case import Case
from refs.problem import Problem
from refs.subject import seed

FORK = "visual_instruction_tuning/peft/src/peft"
ADAPTER = "default"

refuses = lacks


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Adapted by the fork's own model, which starts the magnitude; then its own init of A and B. It is called `peft`: one of its files says so."""
    fork = code.package(FORK, "peft")
    stand_in("deepspeed.runtime.zero.partition_parameters", ZeroParamStatus=None)  # for parameters that are split over machines
    stand_in("deepspeed.runtime.zero", GatheredParameters=None)
    asked = {"r": case.rank, "lora_alpha": case.alpha, "lora_dropout": case.option("dropout", None)}
    config = fork.DoraConfig(target_modules=["layer"], **{name: value for name, value in asked.items() if value is not None})
    host = nn.ModuleDict({"layer": base_layer(case, numbers.weight, numbers.bias)})
    with default_dtype(case.torch_dtype):
        fork.DoraModel(host, {ADAPTER: config}, ADAPTER)
    layer = host.get_submodule("layer")
    seed(case)
    layer.reset_lora_parameters(ADAPTER)  # type: ignore[operator]
    return Built(layer, {name.replace(f".{ADAPTER}", ""): tensor for name, tensor in layer.named_parameters()})
