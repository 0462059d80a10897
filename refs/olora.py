"""OLoRA: W′ = W_res + s·BA, W_res = W − s·B₀A₀, A₀ and B₀ the leading rows and columns of W = QR (arXiv:2406.01775 alg. 1)."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from refs import lora, pissa
from refs.case import Case
from refs.formula import Decomposed, Formula, Init
from refs.peft_layer import ADAPTER, PeftLayer


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Columns of Q and rows of R; a column of Q and the row of R that belongs to it may change their sign together."""
    Q, R = torch.linalg.qr(weight.double())
    r = lora.rank(case)
    return {"lora_A": Decomposed(R[:r]), "lora_B": Decomposed(Q[:, :r])} | lora.bias_init(case, len(weight))


FORMULA = Formula(
    equation="W′ = W_res + s·B A,  W_res = W − s·B₀A₀,  A₀ = R[:r],  B₀ = Q[:, :r],  W = Q R,  s = α/r",
    source="arXiv:2406.01775 alg. 1",
    init=init,
    residual=pissa.residual,
    copied=True,
    gauge=pissa.GAUGE,
    adapted=pissa.adapted,
    moved=pissa.moved,
    scale=lora.scale,
)


def reset(layer: Any, case: Case) -> None:
    """peft's own init, on the undamaged weight."""
    layer.olora_init(ADAPTER)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's OLoRA, through the variant's map."""
    return PeftLayer(
        config=peft.LoraConfig,
        words=pissa.WORDS,
        reset=reset,
        map=names,
        formula=FORMULA,
        code=LoraLayer.olora_init,
        equation="base.weight = W − s·B₀A₀, then LoRA;  A₀ = R[:r],  B₀ = Q[:, :r],  QR of the stored weight in float32",
        kinds=("linear", "conv1d"),
        single=True,
        unable=unable,
    )


def unable(case: Case) -> str | None:
    """Beside PiSSA's limits: it decomposes the stored weight, which Conv1D keeps transposed."""
    if case.layer == "conv1d" and case.d_in != case.d_out:
        return "crashes on a Conv1D that is not square: it decomposes the transposed weight"
    return pissa.unable(case)
