"""loralib, by LoRA's authors: LoRA."""

from typing import Any
from unittest import mock

from torch import nn

from conformance.third_party import Layer, Library
from refs.case import Case


def linear(base: nn.Module, case: Case) -> nn.Module:
    """`loralib.Linear` with the base's numbers."""
    import loralib

    if case.layer != "linear" or case.adapter_dtype or {name for name, _ in case.options} - {"dropout"}:
        raise NotImplementedError("loralib.Linear is a linear layer in one dtype, with dropout and no other option")
    p = case.option("dropout", 0.0)
    layer = loralib.Linear(case.d_in, case.d_out, r=case.rank, lora_alpha=case.alpha, lora_dropout=p, bias=case.bias)
    layer.to(case.torch_dtype).load_state_dict(base.state_dict(), strict=False)
    loralib.mark_only_lora_as_trainable(layer)
    made: nn.Module = layer
    return made


def reset(layer: Any, case: Case) -> None:
    """Its own, without the draws of the base weight, which come first there."""
    with mock.patch.object(nn.Linear, "reset_parameters"):
        layer.reset_parameters()


LIBRARY = Library(
    name="loralib",
    requirements=("loralib==0.1.2",),
    licence="MIT",
    link="https://github.com/microsoft/LoRA",
    about=__doc__,
    layers=(
        Layer(
            page="loralib-lora",
            variant="lora",
            what="loralib.Linear",
            factory=linear,
            map={"lora_A": "lora_A", "lora_B": "lora_B"},
            reset=reset,
            input_name="x",
        ),
    ),
)
