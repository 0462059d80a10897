"""LyCORIS (lycoris-lora): LoRA, DoRA and IA3 on either side.

By default a layer adds x·(W′ − W)ᵀ, formed anew in every forward ("rebuild"); with bypass_mode it adds what the factors give.
Its LoHa, LoKr, GLoRA, Diag-OFT, BOFT, DyLoRA, T-LoRA, full and norm modules have no variant here.
"""

import functools
from typing import Any
from unittest import mock

from torch import nn

from conformance.third_party import Layer, Library
from refs.case import Case, as_dtype


def module(kind: str, base: nn.Module, case: Case, **more: Any) -> nn.Module:
    """`lycoris.modules.KIND` around the base, which it calls."""
    if case.layer != "linear":
        raise NotImplementedError("LyCORIS adapts nn.Linear and convolutions")
    from lycoris import modules

    more |= {"lora_dim": case.rank, "alpha": case.alpha, "dropout": case.option("dropout", 0.0), "rs_lora": case.option("rslora", False)}
    made: nn.Module = getattr(modules, kind)("layer", base, **more).to(as_dtype(case.adapter_dtype or case.dtype))
    return made


def locon(base: nn.Module, case: Case, **more: Any) -> nn.Module:
    """LoRA, which is LoCon on a linear layer."""
    if {name for name, _ in case.options} - {"dropout", "rslora"}:
        raise NotImplementedError("LoCon has dropout and rs_lora, and no other option of the method")
    return module("LoConModule", base, case, **more)


def reset(layer: Any, case: Case, **more: Any) -> None:
    """Its constructor again, without the draws of nn.Linear, which it overwrites."""
    with mock.patch.object(nn.Linear, "reset_parameters"):
        layer.load_state_dict(locon(layer.org_module[0], case, **more).state_dict())


FACTORS = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"}
DORA = {"weight_decompose": True}
BYPASS = {"bypass_mode": True}

LIBRARY = Library(
    name="lycoris-lora",
    requirements=("lycoris-lora==4.1.3",),
    licence="Apache-2.0",
    link="https://github.com/KohakuBlueleaf/LyCORIS",
    layers=(
        Layer(
            page="lycoris-lora",
            variant="lora",
            what="lycoris.modules.LoConModule",
            factory=locon,
            map=FACTORS,
            reset=reset,
            input_name="x",
        ),
        Layer(
            page="lycoris-lora-bypass",
            variant="lora",
            what="lycoris.modules.LoConModule, bypass_mode=True",
            factory=functools.partial(locon, **BYPASS),
            map=FACTORS,
            reset=functools.partial(reset, **BYPASS),
            input_name="x",
        ),
        Layer(
            page="lycoris-dora",
            variant="dora",
            what="lycoris.modules.LoConModule, weight_decompose=True",
            factory=functools.partial(locon, **DORA),
            map=FACTORS | {"lora_m": {"name": "dora_scale", "shape": (-1, 1)}},
            reset=functools.partial(reset, **DORA),
            input_name="x",
        ),
        Layer(
            page="lycoris-ia3",
            variant="ia3",
            what="lycoris.modules.IA3Module",
            factory=functools.partial(module, "IA3Module"),
            map={"lora_g": {"name": "weight", "plus": -1}},
            input_name="x",
        ),
        Layer(
            page="lycoris-ia3-ff",
            variant="ia3_ff",
            what="lycoris.modules.IA3Module, train_on_input=True",
            factory=functools.partial(module, "IA3Module", train_on_input=True),
            map={"lora_g": {"name": "weight", "plus": -1}},
            input_name="x",
        ),
    ),
)
