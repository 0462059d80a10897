"""torchtune: LoRA and DoRA.

Its DoRA is right without a bias and without dropout. It needs torchao for its imports, and one that still has
`torchao.dtypes.nf4tensor`: 0.17.0 is the last. Its LoRA with quantisation-aware training has no variant here.
"""

from typing import Any

from torch import nn

from conformance.suite import Divergence
from conformance.third_party import Layer, Library
from refs.case import Case

LINK = "https://github.com/pytorch/torchtune"


def built(kind: str, base: nn.Module, case: Case) -> Any:
    """`torchtune.modules.peft.KIND` with the base's numbers, its adapter trainable as its recipes make it."""
    if case.layer != "linear" or case.adapter_dtype or {name for name, _ in case.options} - {"dropout"}:
        raise NotImplementedError(f"torchtune's {kind} is a linear layer in one dtype, with dropout and no other option")
    from torchtune.modules import peft

    more = {"dropout": case.option("dropout", 0.0), "use_bias": case.bias}
    layer = getattr(peft, kind)(case.d_in, case.d_out, rank=case.rank, alpha=case.alpha, **more).to(case.torch_dtype)
    layer.load_state_dict(base.state_dict(), strict=False)
    peft.set_trainable_params(layer, peft.get_adapter_params(layer))
    return layer


def lora(base: nn.Module, case: Case) -> nn.Module:
    """Its LoRA."""
    layer: nn.Module = built("LoRALinear", base, case)
    return layer


def dora(base: nn.Module, case: Case) -> nn.Module:
    """Its DoRA, with the magnitudes of the weight that it holds, as its recipes do after loading one."""
    layer: Any = built("DoRALinear", base, case)
    layer.initialize_dora_magnitude()
    made: nn.Module = layer
    return made


def reset(layer: Any, case: Case) -> None:
    """Its own, of A and B."""
    layer.initialize_parameters()


ON_THE_LOW_RANK_PATH = tuple(
    Divergence(
        id="torchtune-dora-dropout",
        check="dropout",
        reference=reference,
        what=r"output|grad\.x|grad\.lora_m",
        where=lambda case: case.mode == "train" and not case.bias,  # with a bias it is wrong anyway
        size=(2.0**48, 2.0**55),
        reason="its dropout acts on the low-rank path only; peft and the authors drop the input of the frozen weight in V, too",
        link=f"{LINK}/blob/v0.6.1/torchtune/modules/peft/dora.py",
    )
    for reference in ("closed form", "peft")
)

FACTORS = {"lora_A": "lora_a.weight", "lora_B": "lora_b.weight"}

LIBRARY = Library(
    name="torchtune",
    requirements=("torchtune==0.6.1", "torchao==0.17.0"),
    licence="BSD-3-Clause",
    link=LINK,
    about=__doc__,
    layers=(
        Layer(
            page="torchtune-lora",
            variant="lora",
            what="torchtune.modules.peft.LoRALinear",
            factory=lora,
            map=FACTORS,
            reset=reset,
            input_name="x",
        ),
        Layer(
            page="torchtune-dora",
            variant="dora",
            what="torchtune.modules.peft.DoRALinear",
            factory=dora,
            map=FACTORS | {"lora_m": "magnitude"},
            reset=reset,
            input_name="x",
            divergences=ON_THE_LOW_RANK_PATH,
        ),
    ),
)
