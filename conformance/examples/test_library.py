"""A library that puts its layers into models: is its DoRA DoRA? Here the library is peft."""

import peft
from torch import nn

from conformance import certify


def layer(base, case):
    if case.layer != "linear" or case.adapter_dtype or dict(case.options).keys() - {"dropout", "rslora"}:
        raise NotImplementedError("this example is for nn.Linear, with dropout and rslora")
    options = {"lora_dropout": case.option("dropout", 0.0), "use_rslora": case.option("rslora", False)}
    config = peft.LoraConfig(r=case.rank, lora_alpha=case.alpha, use_dora=True, target_modules=["layer"], **options)
    return peft.inject_adapter_in_model(config, nn.ModuleDict({"layer": base}))["layer"].to(base.weight.dtype)


def reset(layer, _):
    """Its own init, once more."""
    layer.reset_lora_parameters("default", True)


MAP = {f"lora_{name}": f"lora_{name}.default.weight" for name in "AB"} | {"lora_m": "lora_magnitude_vector.default.weight"}

test_dora = certify.tests(
    layer, "dora", MAP, references=["closed form", "author commonsense"], reset=reset, input_name="x", name="library-dora"
)
