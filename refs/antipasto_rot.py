"""AntiPaSTO's rotation: W′ = W + U (R_uᵀ diag(S + coeff·δ_s) R_v − diag S) V_rᵀ, R block-diagonal Cayley rotations; recorded of lora-lite."""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from refs import basis
from refs.authors.recorded_layer import RecordedLayer
from refs.case import Case
from refs.formula import Exactly, Init, Normal, Promise, Tensors

START = 4e-4
BLOCK, ANGLE = 4, 0.5  # defaults
BY_BASIS = {"V": ("lora_rot_T",), "U": ("lora_rot_T",), "both": ("lora_rot_T", "lora_rot_T_u"), "none": ()}


def block(case: Case) -> int:
    """Size of a block."""
    return int(case.option("block_size", BLOCK))


def turns(case: Case) -> str:
    """Which basis turns."""
    return str(case.option("rotate_basis", "V"))


def limit(case: Case) -> float:
    """L: no entry of A is larger."""
    return 2 * math.tan(float(case.option("max_rotation_angle", ANGLE)) / 2)


def pairs(size: int) -> list[tuple[int, int]]:
    """(i, j) of the components of a block that a row of T speaks of, in its order."""
    return [(i, j) for i in range(size) for j in range(i + 1, size)]


@functools.cache
def planes(size: int) -> Tensor:
    """e_i e_jᵀ − e_j e_iᵀ of each pair (pairs, size, size)."""
    e = torch.eye(size, dtype=torch.float64)
    return torch.stack([torch.outer(e[i], e[j]) - torch.outer(e[j], e[i]) for i, j in pairs(size)])


def init(case: Case, weight: Tensor) -> dict[str, Init]:
    """Nothing turned, every singular value a little larger or smaller."""
    still = torch.zeros(basis.rank(case) // block(case), len(pairs(block(case))), dtype=torch.float64)
    delta_s = Normal(START, (basis.rank(case),), mean=START)
    return {"lora_delta_s": delta_s, **{name: Exactly(still) for name in BY_BASIS[turns(case)]}}


def rotation(case: Case, T: Tensor) -> Tensor:
    """R (r, r) of the parameters of all blocks."""
    A: Tensor = torch.block_diag(*torch.einsum("nk,kij->nij", T / 2, planes(block(case))))  # type: ignore[no-untyped-call]
    X = basis.coeff(case) * limit(case) * torch.tanh(A / limit(case)) / 2
    identity = torch.eye(len(A), dtype=A.dtype)
    R: Tensor = torch.linalg.inv(identity - X) @ (identity + X)
    return R


def core(case: Case, p: Mapping[str, Tensor]) -> Tensor:
    """Shifted singular values between the rotations."""
    K = torch.diag(p["lora_S"] + basis.coeff(case) * p["lora_delta_s"])
    if turns(case) in ("V", "both"):
        K = K @ rotation(case, p["lora_rot_T"])
    if turns(case) in ("U", "both"):
        K = rotation(case, p[BY_BASIS[turns(case)][-1]]).T @ K
    return K


def departure(case: Case, weight: Tensor, x: Tensor) -> float:
    """Root mean square of U (coeff·δ_s · V x) for a random δ_s, whose mean is its standard deviation: U's columns are orthonormal."""
    h = x @ FORMULA.begin(case, weight).frozen["lora_Vh"].T
    return abs(basis.coeff(case)) * START * float((2 * h.square().sum(dim=-1).mean() / weight.shape[0]).sqrt())


def flipped(value: Tensor, sign: Tensor) -> Tensor:
    """A parameter is about two components, and changes its sign with either's."""
    of_block = sign.reshape(len(value), -1)
    i, j = zip(*pairs(of_block.shape[1]), strict=True)
    return value * of_block[:, i] * of_block[:, j]


def tiny(case: Case, perturbed: Tensors) -> Tensors:
    """Angles far below what a product of numbers near one resolves."""
    return {name: value * (1e-6 if "rot" in name else 1.0) for name, value in perturbed.items()}


def saturated(case: Case, perturbed: Tensors) -> Tensors:
    """Every other angle deep in its clamp."""
    there = {name: value for name, value in perturbed.items() if "rot" in name}
    deep = {
        name: torch.where(torch.arange(value.numel()).reshape(value.shape) % 2 == 0, 6 * limit(case) * value.sign(), value)
        for name, value in there.items()
    }
    return perturbed | deep


def _alone(parameters: Tensors) -> Tensors:
    """No singular value shifted."""
    return parameters | {"lora_delta_s": torch.zeros_like(parameters["lora_delta_s"])}


def _one_side(parameters: Tensors) -> Tensors:
    """And of two rotations one."""
    return _alone(parameters) | {name: torch.zeros_like(value) for name, value in parameters.items() if name == "lora_rot_T_u"}


def _spectra(cores: Sequence[Tensor], tensors: Tensors) -> tuple[float, float]:
    """How far singular values are from S, relative to the largest."""
    S = tensors["lora_S"].sort(descending=True).values
    return max(float((torch.linalg.svdvals(K) - S).abs().max() / S[0]) for K in cores), 1.0


def _undone(cores: Sequence[Tensor], tensors: Tensors) -> tuple[float, float]:
    """How far R, which is K without S on one of its sides, is from an orthogonal matrix, and R(c)·R(−c) from the identity."""
    S = tensors["lora_S"]
    identity = torch.eye(len(S), dtype=S.dtype)

    def worst(turned: list[Tensor]) -> float:
        far = [R @ R.T - identity for R in turned] + [
            one @ back - identity for one, back in zip(turned[::2], turned[1::2], strict=True)
        ]
        return max(float(torch.linalg.matrix_norm(off, 2)) for off in far)

    return min(worst([K / S[:, None] for K in cores]), worst([K / S for K in cores])), float(S.max() / S.min())


SPECTRUM = Promise(
    what="singular values stay where they are not shifted", coefficients=(-1.0, -0.25, 0.5, 1.0, 3.0), at=_alone, broken=_spectra
)
TURNED_BACK = Promise(
    what="one side turns, rigidly, and −coeff turns it back", coefficients=(1.0, -1.0, 0.3, -0.3), at=_one_side, broken=_undone
)

FORMULA = basis.formula(
    core,
    equation=(
        "W′ = W + U_r (R_uᵀ diag(S_r + coeff·δ_s) R_v − diag S_r) V_rᵀ,  R = (I − X)⁻¹(I + X) in blocks,  X = coeff·L tanh(A/L)/2,  "
        "L = 2 tan(max_rotation_angle/2),  A_ij = −A_ji = T/2;  T₀ = 0,  δ_s ~ N(4e-4, (4e-4)²)"
    ),
    source="wassname/AntiPaSTO 85c09b7, wassname/lora-lite 5f9d90d",
    init=init,
    frozen_from=functools.partial(basis.chosen, pool="mean_abs"),
    gauge={"lora_U": (1,), "lora_Vh": (0,), "lora_rot_T": flipped, "lora_rot_T_u": flipped},
    states={"saturated": saturated, "tiny": tiny},
    identity=lambda case: False,
    departure=departure,
    promises=(SPECTRUM, TURNED_BACK),
)

RECORDED = RecordedLayer(
    folder="lora_lite/antipasto_rot",
    equation="y = x W_resᵀ + b + (x V R_vᵀ·(S + δ_s)) (U R_uᵀ)ᵀ,  W_res = W − U_r S_r V_rᵀ, decomposed and turned in float32",
    name="recorded lora-lite",
    in_float32=True,  # what is left of the weight and the rotation, whatever the dtype
)
