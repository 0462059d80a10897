"""litgpt: LoRA.

Its `LoRAQKVLinear`, LoRA on the parts of one joint projection, has no variant here. It needs huggingface-hub below 1.4, and so transformers
of 5.3.0 or older.
"""

from typing import Any

from torch import nn

from conformance.third_party import Layer, Library
from refs.case import Case


def linear(base: nn.Module, case: Case) -> nn.Module:
    """`litgpt.lora.LoRALinear` with the base's numbers."""
    if case.layer != "linear" or case.adapter_dtype or {name for name, _ in case.options} - {"dropout"}:
        raise NotImplementedError("litgpt's LoRALinear is a linear layer in one dtype, with dropout and no other option")
    from litgpt.lora import LoRALinear, mark_only_lora_as_trainable

    more = {"lora_dropout": case.option("dropout", 0.0), "bias": case.bias}
    layer = LoRALinear(case.d_in, case.d_out, r=case.rank, lora_alpha=case.alpha, **more).to(case.torch_dtype)
    layer.linear.load_state_dict(base.state_dict())
    mark_only_lora_as_trainable(layer)
    made: nn.Module = layer
    return made


def reset(layer: Any, case: Case) -> None:
    """Its own, of A and B."""
    layer.reset_parameters()


LIBRARY = Library(
    name="litgpt",
    requirements=("litgpt==0.5.13", "transformers==5.3.0"),
    licence="Apache-2.0",
    link="https://github.com/Lightning-AI/litgpt",
    about=__doc__,
    layers=(
        Layer(
            page="litgpt-lora",
            variant="lora",
            what="litgpt.lora.LoRALinear",
            factory=linear,
            map={"lora_A": "lora_A", "lora_B": "lora_B"},
            reset=reset,
            input_name="x",
        ),
    ),
)
