"""AntiPaSTO's ablation: W′ = W + U (K − diag S) Vᵀ, K = (I − coeff·C diag(a) Cᵀ) diag S, a = clamp(alpha, 0, 1); recorded of lora-lite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from refs import antipasto_corda, basis
from refs.authors.recorded_layer import RecordedLayer
from refs.calibration import Calls
from refs.case import Case
from refs.formula import Exactly, Init, Normal, Promise, Tensors

LEAST = 1e-6


def directions(case: Case) -> int:
    """k."""
    return int(case.option("k", 1))


def strength(case: Case) -> float:
    """Where every alpha starts."""
    return float(case.option("init_alpha", 0.05))


def by_data(case: Case) -> bool:
    """Whether data orient the components."""
    return bool(case.option("cov_orient", False))


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Random directions, all of one small strength."""
    r, k = basis.rank(case), directions(case)
    return {
        "lora_c": Normal(r**-0.5, (r, k)),
        "lora_alpha": Exactly(torch.full((k,), strength(case), dtype=torch.float32).double()),  # starts go through float32
    }


def frozen_from(case: Case, weight: Tensor, data: Calls) -> Tensors:
    """The r largest components, or those of antipasto_corda, whose P stands under the name of Vᵀ."""
    if not by_data(case):
        return basis.chosen(case, weight, data)
    own = antipasto_corda.frozen_from(case, weight, data)
    return {"lora_U": own["lora_U"], "lora_S": own["lora_S"], "lora_Vh": own["lora_P"]}


def condition(case: Case, weight: Tensor) -> float:
    """Of C^½, where it is inverted."""
    return antipasto_corda.condition(case, weight) if by_data(case) else 1.0


def orthonormal(c: Tensor) -> Tensor:
    """C (r, k): a single direction over its length and a little, several by Gram and Schmidt in their order."""
    if c.shape[1] == 1:
        return c / (c.square().sum().sqrt() + LEAST)
    columns: list[Tensor] = []
    for left in c.T:
        for _ in range(2):  # once more, for what rounding has left
            for column in columns:
                left = left - (left @ column) * column
        columns.append(left / left.square().sum().sqrt())
    return torch.stack(columns, dim=1)


def core(case: Case, p: Mapping[str, Tensor]) -> Tensor:
    """K. The gradient of a strength is 1 at the clamp's ends from both sides."""
    C, alpha = orthonormal(p["lora_c"]), p["lora_alpha"]
    clamped = torch.where(alpha < 0, torch.zeros_like(alpha), torch.where(alpha > 1, torch.ones_like(alpha), alpha))
    taken = C @ torch.diag(clamped) @ C.T
    return (torch.eye(len(C), dtype=C.dtype) - basis.coeff(case) * taken) @ torch.diag(p["lora_S"])


def departure(case: Case, weight: Tensor, x: Tensor) -> float:
    """k random directions out of r, each with the start's strength."""
    frozen = FORMULA.begin(case, weight).frozen
    h = linear(x, frozen["lora_Vh"]) * frozen["lora_S"]
    share = directions(case) / basis.rank(case) * h.square().sum() / (h.numel() // h.shape[-1] * case.d_out)
    return abs(basis.coeff(case)) * strength(case) * float(share.sqrt())


def moved(case: Case, start: Tensors, noise: Tensors, strength: float) -> Tensors:
    """Directions away from their start, strengths up to a little below 1, no two alike."""
    far = min(strength, 1.0)
    goal = 0.6 + 0.35 * torch.sigmoid(noise["lora_alpha"])
    c = start["lora_c"] + far * noise["lora_c"] / len(noise["lora_c"]) ** 0.5
    return {"lora_c": c, "lora_alpha": start["lora_alpha"] + far * (goal - start["lora_alpha"])}


def ends(case: Case, perturbed: Tensors) -> Tensors:
    """Strengths at 1 and 0 in turn, a third one between."""
    return _alphas(perturbed, (1.0, 0.0, None))


def beyond(case: Case, perturbed: Tensors) -> Tensors:
    """Strengths above 1 and below 0 in turn, after one between."""
    return _alphas(perturbed, (None, 1.5, -0.5))


def _alphas(perturbed: Tensors, values: Sequence[float | None]) -> Tensors:
    alpha = perturbed["lora_alpha"].clone()
    for number in range(len(alpha)):
        if (value := values[number % len(values)]) is not None:
            alpha[number] = value
    return perturbed | {"lora_alpha": alpha}


def _far_beyond(parameters: Tensors) -> Tensors:
    return _alphas(parameters, (2.5, -0.5))


def _grows(cores: Sequence[Tensor], tensors: Tensors) -> tuple[float, float]:
    """By how much the largest singular value of K over diag S is above 1."""
    most = max(float(torch.linalg.matrix_norm(core / tensors["lora_S"], 2)) for core in cores)
    return max(most - 1, 0.0), float(tensors["lora_S"].max() / tensors["lora_S"].min())


FORMULA = basis.formula(
    core,
    equation="W′ = W − coeff·U_r C diag(a) Cᵀ diag(S_r) V_rᵀ,  a = clamp(alpha, 0, 1),  C = c/(‖c‖ + 1e-6) (k = 1), Q of c = Q R;  c₀ ~ N(0, 1/r)",
    source="wassname/lora-lite 09dcfe0",
    init=init,
    frozen_from=frozen_from,
    uses_data=by_data,
    condition=condition,
    least_tokens=basis.rank,
    gauge={"lora_U": (1,), "lora_Vh": (0,), "lora_c": (0,)},
    moved=moved,
    states={"ends": ends, "beyond": beyond},
    jumps={"lora_alpha": 1.0},  # at 0, too, which no relative change leaves
    identity=lambda case: strength(case) == 0,
    departure=departure,
    promises=(
        Promise(what="nothing grows for coefficients in [0, 1]", coefficients=(0.0, 0.3, 1.0), at=_far_beyond, broken=_grows),
    ),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_ablate",
    equation="y = x W_resᵀ + b + (h − coeff·((h C)·a) Cᵀ) Uᵀ,  h = x V·S;  W_res = W − U_r S_r V_rᵀ, decomposed in float32; Q in float32",
    name="recorded lora-lite",
    in_float32=True,
)
