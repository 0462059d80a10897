"""CorDA: PiSSA's split of W C instead of W, C the uncentred second moment of the layer's input (arXiv:2406.05223 §3)."""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import Tensor, nn

from refs import lora, pissa
from refs.calibration import Calls, batches, calls
from refs.case import Case
from refs.formula import Formula, Init
from refs.peft_layer import ADAPTER, PeftLayer
from refs.problem import Problem

DEFAULT_DAMP = 0.01
INVERSE_ERROR = 0.05


def covariance(case: Case, each_call: list[Tensor]) -> Tensor:
    """C, damped: the mean over calls of XᵀX, each X over the size of its largest entry, signs counted."""
    scaled = [x / x.max().abs() for x in each_call]
    C: Tensor = torch.stack([x.T @ x for x in scaled]).mean(dim=0)
    damp, eye = case.option("damp", DEFAULT_DAMP), torch.eye(len(C), dtype=C.dtype)
    while True:
        damped: Tensor = C + damp * C.trace() / len(C) * eye
        if torch.linalg.matrix_norm(damped @ torch.linalg.inv(damped) - eye) < INVERSE_ERROR:
            return damped
        damp = 2 * damp


def init_from(case: Case, weight: Tensor, data: Calls) -> dict[str, Init]:
    """The largest (ipm) or smallest (kpm) singular triples of W C, with C taken out again on the right."""
    C, r = covariance(case, data["layer"]), lora.rank(case)
    U, S, Vh = torch.linalg.svd(weight.double() @ C, full_matrices=False)
    if case.option("mode", "ipm") == "kpm":
        U, S, Vh = U[:, -r:], S[-r:], Vh[-r:]
    U, S, right = U[:, :r], S[:r], torch.linalg.solve(C, Vh[:r].T).T
    # Rounding of V grows by C's condition; S Vᵀ C⁻¹ = UᵀW takes it back, in the one way that does not divide by small S.
    refined = right + (U.T @ weight - S[:, None] * right) / S.clamp(min=S.max() * 2.0**-26)[:, None]
    return pissa.balanced(case, U, S, refined)


def condition(case: Case, weight: Tensor) -> float:
    """Of C, which is inverted: what a reference's rounding is multiplied by."""
    values = torch.linalg.eigvalsh(covariance(case, calls(batches(case), labels=False)["layer"]))
    return float(values[-1] / values[0])


FORMULA = Formula(
    equation="W′ = W_res + s·B A,  W_res = W − s·B₀A₀,  A₀ = √(S_r/s) V_rᵀ C⁻¹,  B₀ = U_r √(S_r/s),  W C = U S Vᵀ",
    source="arXiv:2406.05223 §3",
    init_from=init_from,
    residual=pissa.residual,
    condition=condition,
    least_tokens=lora.rank,
    copied=True,
    gauge=pissa.GAUGE,
    adapted=pissa.adapted,
    moved=pissa.moved,
    scale=lora.scale,
)


def config(target_modules: list[str], mode: str = "ipm", **arguments: Any) -> Any:
    """peft's config: the start's own options are a config of their own."""
    own = CordaConfig(corda_method=mode)
    return peft.LoraConfig(target_modules=target_modules, init_lora_weights="corda", corda_config=own, **arguments)


def inject(model: nn.Module, config: Any, case: Case, problem: Problem) -> None:
    """peft's own path: data through the plain model, then layers that find what was made of it."""

    def run_model() -> None:
        for batch in problem.data:
            model(batch.layer.to(case.torch_dtype), batch.beside.to(case.torch_dtype))

    preprocess_corda(model, config, run_model)
    model.train()
    peft.inject_adapter_in_model(config, model, ADAPTER)


def reset(layer: Any, case: Case) -> None:
    """The start was taken from the data."""


def unable(case: Case) -> str | None:
    """What peft fails on."""
    if case.data == "padded":
        return "fails on batches of several sequences and has no padding mask"
    if case.option("damp", None) is not None:
        return "has a fixed damping"
    return pissa.unable(case)


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's CorDA, through the variant's map."""
    return PeftLayer(
        config=config,
        words=pissa.WORDS | {"mode": "mode"},
        reset=reset,
        map=names,
        formula=FORMULA,
        code=preprocess_corda,
        equation="base.weight = W − s·B₀A₀, then LoRA;  A₀ = √(S_r/s) V_rᵀ C⁻¹,  B₀ = U_r √(S_r/s),  W C = U S Vᵀ, all in float32",
        kinds=("linear", "conv1d"),
        single=True,
        inject=inject,
        unable=unable,
    )
