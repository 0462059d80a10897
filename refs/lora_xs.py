"""LoRA-XS: W′ = W + s·B R A, A = S_r V_rᵀ and B = U_r frozen, R trained (arXiv:2405.17604 §3); s = alpha/r, 1 by default.

peft has no method of this name. PSOFT without its orthogonality and TinyLoRA with one-hot projections are the same function once
they are given these A and B; they start exactly at the base layer, and split S in other ways.
"""

from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn

from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.formula import Formula, Init, Normal, Tensors
from refs.installed import installed
from refs.peft_layer import ADAPTER, PeftLayer
from refs.problem import Problem

DEFAULT_RANK, START = 8, 1e-5


def rank(case: Case) -> int:
    """r of a case, or its default."""
    return case.rank or DEFAULT_RANK


def scale(case: Case) -> float:
    """s of the formula."""
    return 1.0 if case.alpha is None else case.alpha / rank(case)


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """R nearly zero."""
    return {"lora_R": Normal(START, (rank(case), rank(case)))}


def frozen(case: Case, weight: Tensor) -> Tensors:
    """The leading singular triples, the values on the input's side."""
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    r = rank(case)
    return {"lora_A": torch.diag(S[:r]) @ Vh[:r], "lora_B": U[:, :r].clone()}


def adapted(case: Case, weight: Tensor, bias: Tensor | None, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """The dense weight of the formula."""
    return weight + scale(case) * p["lora_B"] @ p["lora_R"] @ p["lora_A"], bias


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """R from its start."""
    return {"lora_R": start["lora_R"] + strength * noise["lora_R"]}


def departure(case: Case, weight: Tensor, x: Tensor) -> float:
    """Root mean square of s·B R A x for a random R: B's columns are orthonormal."""
    h = x @ frozen(case, weight)["lora_A"].T
    d_out = weight.shape[0]
    return float(scale(case) * START * (rank(case) * h.square().sum(dim=-1).mean() / d_out).sqrt())


FORMULA = Formula(
    equation="W′ = W + s·B R A,  A = S_r V_rᵀ,  B = U_r,  W = U S Vᵀ,  s = α/r, 1 by default;  R₀ ~ N(0, 10⁻¹⁰)",
    source="arXiv:2405.17604 §3",
    init=init,
    frozen=frozen,
    copied=True,
    gauge={"lora_A": (0,), "lora_B": (1,), "lora_R": (0, 1)},
    adapted=adapted,
    moved=moved,
    scale=scale,
    identity=lambda case: False,
    departure=departure,
    unseen=frozenset({"niter"}),
)


def psoft_config(alpha: float | None = None, **arguments: Any) -> Any:
    """PSOFT as a free r × r matrix."""
    r = arguments.setdefault("r", DEFAULT_RANK)
    free = {"psoft_orth": False, "psoft_mag_a": False, "psoft_mag_b": False}
    return peft.PsoftConfig(psoft_alpha=r if alpha is None else alpha, **free, **arguments)


def psoft_reset(layer: Any, case: Case) -> None:
    """peft's own init of R: the identity matrix."""
    layer.psoft_R[ADAPTER].reset_parameters(True)


def tinylora_config(alpha: float | None = None, **arguments: Any) -> Any:
    """TinyLoRA with as many numbers as R has; it has no scale."""
    r = arguments.setdefault("r", DEFAULT_RANK)
    return peft.TinyLoraConfig(u=r * r, **arguments)


def tinylora_reset(layer: Any, case: Case) -> None:
    """One-hot projections instead of random ones, times s."""
    r = rank(case)
    layer.tinylora_P[ADAPTER] = scale(case) * torch.eye(r * r, dtype=torch.float64).reshape(r * r, r, r)


def inject_tinylora(model: nn.Module, config: Any, case: Case, problem: Problem) -> None:
    """TinyLoRA keeps its numbers in the model around the layers."""
    peft.get_peft_model(model, config, autocast_adapter_dtype=False)


RECORDED = RecordedLayer(
    folder="lora_lite/lora_xs",
    equation="y = x Wᵀ + b + s·B(R(A x)),  A = S_r V_rᵀ,  B = U_r,  W = U S Vᵀ in float32;  s = α/r, 2 by default",
    name="recorded lora-lite",
)

STARTS_AT_BASE = "peft has no LoRA-XS: this is another method in its place, with a start and defaults of its own"


def references() -> tuple[PeftLayer, ...]:
    """The two methods of the installed peft that compute the same."""
    return (
        PeftLayer(
            name="peft PSOFT",
            config=psoft_config,
            words={"rank": "r", "alpha": "alpha", "dropout": "psoft_dropout"},
            reset=psoft_reset,
            map={
                "lora_R": {"name": "psoft_R.weight", "plus": "identity"},
                "lora_A": "_psoft_A_cache",
                "lora_B": "_psoft_B_cache",
            },
            formula=FORMULA,
            code=installed("peft.tuners.psoft.layer:Linear.forward"),
            equation="y = base(x) + s·B((R − I)(A(drop(x)))),  s = psoft_alpha/r, psoft_orth, psoft_mag_a and psoft_mag_b off",
            single=True,
            unable=unable,
            other_start=STARTS_AT_BASE,
        ),
        PeftLayer(
            name="peft TinyLoRA",
            config=tinylora_config,
            words={"rank": "r", "alpha": "alpha", "dropout": "tinylora_dropout"},
            reset=tinylora_reset,
            map={"lora_R": {"name": "tinylora_v.0", "shape": (-1,)}, "lora_A": "tinylora_A", "lora_B": "tinylora_B"},
            formula=FORMULA,
            code=installed("peft.tuners.tinylora.layer:Linear.forward"),
            equation="y = base(x) + B(R(A(drop(x)))),  R = Σ_i v_i P_i,  here with one-hot P_i times s",
            kinds=("linear", "conv1d"),
            inject=inject_tinylora,
            unable=unable,
            other_start=STARTS_AT_BASE,
        ),
    )


def unable(case: Case) -> str | None:
    """Its decomposition is told by other options."""
    return "has other ways of an approximate decomposition" if case.option("niter", None) else None
