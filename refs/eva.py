"""EVA: LoRA with A₀ = the leading principal directions of the layer's centred input, ranks shared out (arXiv:2410.07170 alg. 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.config import EvaConfig
from peft.tuners.lora.eva import get_eva_state_dict
from torch import Tensor, nn

from refs import lora, pissa
from refs.calibration import Calls, batches, calls
from refs.case import Case
from refs.formula import Decomposed, Exactly, Formula, Init
from refs.peft_layer import PeftLayer
from refs.problem import Problem

DEFAULT_RHO = 2.0
IGNORED = -100  # the label of a token that is not trained on


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """Singular values of a layer's centred inputs, and their directions (k, d_in), the largest entry of each positive."""

    values: Tensor
    directions: Tensor


def principal(tokens: Tensor) -> Principal:
    """Of tokens (n, d_in), by the decomposition of the centred matrix itself."""
    _, values, directions = torch.linalg.svd(tokens - tokens.mean(dim=0), full_matrices=False)
    largest = directions[torch.arange(len(directions)), directions.abs().argmax(dim=1)]
    return Principal(values, directions * largest.sign()[:, None])


def most(case: Case) -> int:
    """The most components that one layer may get."""
    rho: float = case.option("rho", DEFAULT_RHO)
    return round(rho * lora.rank(case))


def ranks(case: Case, layers: Mapping[str, Principal]) -> dict[str, int]:
    """How many components each layer gets out of r for each: those with the largest part of their layer's variance."""
    r = lora.rank(case)
    parts = [
        (float(part), name)
        for name, found in layers.items()
        for part in (found.values.square() / found.values.square().sum())[: min(most(case), found.directions.shape[1])]
    ]
    best = sorted(parts, key=lambda part: part[0], reverse=True)[: r * len(layers)]
    return {name: sum(chosen == name for _, chosen in best) for name in layers}


def init_from(case: Case, weight: Tensor, data: Calls) -> dict[str, Init]:
    """A from the data, B zero; of the case's layer, which shares its budget with the one beside it."""
    layers = {name: principal(torch.cat(list(each_call))) for name, each_call in data.items()}
    r, found = ranks(case, layers)["layer"], layers["layer"]
    A = found.directions[:r]
    if case.option("whiten", False):
        A = A / found.values[:r, None].sqrt()
    d_out = weight.shape[0]
    factors: dict[str, Init] = {"lora_A": Decomposed(A), "lora_B": Exactly(torch.zeros(d_out, r, dtype=torch.float64))}
    return factors | lora.bias_init(case, d_out)


def scale(case: Case, r: int) -> float:
    """s of a layer that got r components."""
    alpha = lora.DEFAULT_ALPHA if case.alpha is None else case.alpha
    if case.option("adjust_scaling_factors", True):
        alpha *= r / lora.rank(case)
    return float(alpha / (r**0.5 if case.option("rslora", False) else r))


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of LoRA's formula, with the scale of the layer's own rank."""
    s = scale(case, len(p["lora_A"]))
    if "lora_b" in p:
        bias = s * p["lora_b"] + (0 if bias is None else bias)
    return weight + s * p["lora_B"] @ p["lora_A"], bias


def condition(case: Case, weight: Tensor) -> float:
    """Of the centred inputs, down to the last direction that is taken: a covariance, the usual way to them, squares it."""
    found = principal(torch.cat(calls(batches(case), labels=True)["layer"]))
    return float(found.values[0] / found.values[min(most(case), len(found.values)) - 1])


FORMULA = Formula(
    equation="W′ = W + s·B A,  A₀ = leading eigenvectors of Σ_t (x_t − x̄)(x_t − x̄)ᵀ,  B₀ = 0;  the r·layers components with most variance",
    source="arXiv:2410.07170 §3, alg. 1",
    init_from=init_from,
    adapted=adapted,
    moved=lora.moved,
    scale=lora.scale,
    condition=condition,
    label_mask=True,
    least_tokens=lambda case: most(case) + 1,
)


def config(target_modules: list[str], **arguments: Any) -> Any:
    """peft's config: the start's own options are a config of their own."""
    own = {name: arguments.pop(name) for name in ("rho", "whiten", "adjust_scaling_factors") if name in arguments}
    return peft.LoraConfig(target_modules=target_modules, init_lora_weights="eva", eva_config=EvaConfig(**own), **arguments)


def inject(model: nn.Module, config: Any, case: Case, problem: Problem) -> None:
    """peft's own path: data through the plain model, then a layer of the rank and alpha that came out."""
    loader = []
    for batch in problem.data:
        tokens = torch.ones(batch.layer.shape[:2], dtype=torch.long)
        inputs = {"x": batch.layer.to(case.torch_dtype), "z": batch.beside.to(case.torch_dtype), "input_ids": tokens}
        if batch.attention is not None and batch.labels is not None:
            inputs |= {"attention_mask": batch.attention.long(), "labels": torch.where(batch.labels, 0, IGNORED)}
        loader.append(inputs)
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    peft.initialize_lora_eva_weights(
        wrapped,
        loader,
        forward_fn=lambda inner, inputs: inner(inputs["x"], inputs["z"]),
        show_progress_bar=False,
    )


def reset(layer: Any, case: Case) -> None:
    """The start was taken from the data."""


def peft_layer(names: Mapping[str, Any]) -> PeftLayer:
    """The installed peft's EVA, through the variant's map."""
    own = {name: name for name in ("rho", "whiten", "adjust_scaling_factors")}
    return PeftLayer(
        config=config,
        words=pissa.WORDS | own,
        reset=reset,
        map=names,
        formula=FORMULA,
        code=get_eva_state_dict,
        equation="LoRA;  A₀ from a randomised, truncated streaming PCA of the layer's input in float32, B₀ = 0",
        kinds=("linear", "conv1d"),
        inject=inject,
        unable=unable,
    )


def unable(case: Case) -> str | None:
    """Refused by peft's config and by its decomposition."""
    if most(case) > case.d_in:
        return "fails where more components are asked for than there are inputs"
    return "has lora_bias with LoRA's own start only" if case.option("lora_bias", False) else None
