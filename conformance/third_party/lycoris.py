"""LyCORIS (lycoris-lora): LoRA, DoRA and IA3 on either side.

By default a layer adds x·(W′ − W)ᵀ, formed anew in every forward ("rebuild"); with bypass_mode it adds what the factors give.
Its LoHa, LoKr, GLoRA, Diag-OFT, BOFT, DyLoRA, T-LoRA, full and norm modules have no variant here.
"""

import functools
from typing import Any
from unittest import mock

from torch import nn

from conformance.suite import Divergence
from conformance.third_party import Layer, Library
from refs.case import Case, as_dtype


def module(kind: str, base: nn.Module, case: Case, **more: Any) -> nn.Module:
    """`lycoris.modules.KIND` around the base, which it calls."""
    if case.layer != "linear":
        raise NotImplementedError("LyCORIS adapts nn.Linear and convolutions")
    from lycoris import modules

    more |= {
        "lora_dim": case.rank,
        "alpha": case.alpha,
        "dropout": case.option("dropout", 0.0),
        "rs_lora": case.option("rslora", False),
    }
    made: nn.Module = getattr(modules, kind)("layer", base, **more).to(as_dtype(case.adapter_dtype or case.dtype))
    return made


def locon(base: nn.Module, case: Case, **more: Any) -> nn.Module:
    """LoRA, which is LoCon on a linear layer."""
    if {name for name, _ in case.options} - {"dropout", "rslora"}:
        raise NotImplementedError("LoCon has dropout and rs_lora, and no other option of the method")
    if more.get("weight_decompose") and case.option("dropout", 0.0):
        raise NotImplementedError("LyCORIS' DoRA has no dropout: it warns that it ignores it")
    return module("LoConModule", base, case, **more)


def reset(layer: Any, case: Case, **more: Any) -> None:
    """Its constructor again, without the draws of nn.Linear, which it overwrites."""
    with mock.patch.object(nn.Linear, "reset_parameters"):
        layer.load_state_dict(locon(layer.org_module[0], case, **more).state_dict())


RELEASE = "https://pypi.org/project/lycoris-lora/4.1.3"  # the repository has no tag of it
THROUGH = "gradients of A and B go through the norm, as with the authors' dora_simple=False; the paper's §4.3, peft and the authors' default hold it constant"
A, B = r"grad\.lora_A", r"grad\.lora_B"
DETACHED = ("closed form", "peft", "author commonsense", "author visual")

IN_BASE_DTYPE = Divergence(
    id="lycoris-base-dtype",
    check="accuracy",
    reference="peft",
    what=r"grad\.lora_[AB]",
    where=lambda case: case.adapter_dtype is not None,
    size=(2.0**9, 2.0**18),
    reason="an adapter wider than its base is rounded to the base's dtype before it is multiplied; peft computes in the adapter's",
    link=f"{RELEASE}, lycoris/modules/locon.py",
)
DROPS_OUTPUT = tuple(
    Divergence(
        id="lycoris-output-dropout",
        check="dropout",
        reference=reference,
        what=r"output|grad\..*",
        where=lambda case: case.mode == "train",
        size=(2.0**48, 2.0**56),
        reason="with bypass_mode dropout acts on what the adapter adds, not on its input; so it is written in the base class",
        link=f"{RELEASE}, lycoris/modules/base.py",
    )
    for reference in ("closed form", "peft", "author")
)
FLOAT32_NORMS = tuple(
    Divergence(
        id="lycoris-dora-float32-norms",
        check=check,
        reference=reference,
        what=what,
        where=lambda case: case.dtype == "float64",
        size=(2.0**25, 2.0**31),
        reason="the norms that m starts from are those of a float32 copy of the weight",
        link=f"{RELEASE}, lycoris/modules/locon.py",
    )
    for check, what, references in (("init", "lora_m", (*DETACHED, "author full")), ("identity", "output", ("itself",)))
    for reference in references
)


def away_from_start(what: str, dtype: str, case: Case) -> bool:
    """Cases of a dtype; for A those where B is not zero, so that A has a gradient."""
    return case.dtype == dtype and not (what == A and case.state == "init")


FULL_GRADIENT = tuple(
    Divergence(
        id="lycoris-dora-full-gradient",
        check=check,
        reference=reference,
        what=what,
        where=functools.partial(away_from_start, what, dtype),
        size=size,
        reason=THROUGH,
        link=f"{RELEASE}, lycoris/functional/general.py",
    )
    for check, columns, names, dtype, size in (
        ("gradients", DETACHED, (A, B), "float64", (2.0**46, 2.0**55)),
        ("accuracy", DETACHED[1:], (A, B), "float32", (2.0**17, 2.0**23)),
        ("accuracy", ("peft",), (A, B), "float16", (2.0**6, 2.0**9)),
        ("accuracy", ("peft",), (A, B), "bfloat16", (2.0**3, 2.0**6)),
        ("shape sweep", DETACHED[:2], (B,), "float64", (2.0**52, 2.0**55)),  # which shows the first that differs
    )
    for reference in columns
    for what in names
)

FACTORS = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight"}
DORA: dict[str, Any] = {"weight_decompose": True}
BYPASS: dict[str, Any] = {"bypass_mode": True}

LIBRARY = Library(
    name="lycoris-lora",
    requirements=("lycoris-lora==4.1.3",),
    licence="Apache-2.0",
    link="https://github.com/KohakuBlueleaf/LyCORIS",
    about=__doc__,
    layers=(
        Layer(
            page="lycoris-locon",
            variant="lora",
            what="lycoris.modules.LoConModule",
            factory=locon,
            map=FACTORS,
            reset=reset,
            input_name="x",
            divergences=(IN_BASE_DTYPE,),
        ),
        Layer(
            page="lycoris-locon-bypass",
            variant="lora",
            what="lycoris.modules.LoConModule, bypass_mode=True",
            factory=functools.partial(locon, **BYPASS),
            map=FACTORS,
            reset=functools.partial(reset, **BYPASS),
            input_name="x",
            divergences=(IN_BASE_DTYPE, *DROPS_OUTPUT),
        ),
        Layer(
            page="lycoris-dora",
            variant="dora",
            what="lycoris.modules.LoConModule, weight_decompose=True",
            factory=functools.partial(locon, **DORA),
            map=FACTORS | {"lora_m": {"name": "dora_scale", "shape": (-1, 1)}},
            reset=functools.partial(reset, **DORA),
            input_name="x",
            divergences=(*FLOAT32_NORMS, *FULL_GRADIENT),
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
