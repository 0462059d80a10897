"""AntiPaSTO's rotation: r singular values are shifted and their singular vectors turned within small blocks, which one coefficient steers.

y = x Wᵀ + b + ((x Vhᵀ R_vᵀ)·(S + coeff·δ_s) R_u − x Vhᵀ·S) Uᵀ,  W = U S Vh, r of its components: the largest, or those that data choose
R_v, R_u block-diagonal, (r, r) in blocks of block_size: (I − X)⁻¹(I + X),  X = coeff·L tanh(A/L)/2,  L = 2 tan(max_rotation_angle/2)
A_ij = T/2 for i < j, −T/2 below the diagonal, T (r/block_size, block_size·(block_size − 1)/2) by rows; the bases that do not turn have R = I
Identity at init: nearly: T = 0, but δ_s is normal with mean and standard deviation 4e-4; bit for bit at coeff = 0, which adds an exact zero.
Departures: lora-lite and the authors replace W by W − U S Vh and add the adapted part back; here W stays and only the difference is added, with
R − I = (I − X)⁻¹ 2X and never S + δ_s − S, so that a small difference is as precise as a large one, until y's dtype rounds the sum (in
bfloat16 lora-lite's own start changes nothing at all). lora-lite turns in float32 whatever the dtype, here in float64 there; it dropped the coefficient, which is the authors'.
antipasto-rot-bias: the authors drop the layer's bias. antipasto-rot-residual: antipasto3 keeps what is left of W in bfloat16 (1e-3 off).
antipasto-rot-start: the authors draw T, too; T = 0 is lora-lite's. antipasto-rot-angle: 0.5 rad is lora-lite's default, the author's π/3;
r = 16 is the author's, lora-lite's 256.
The author turns all r components as one block, antipasto3 both sides by the same parameters, with the opposite sign of T in both.
The clamp is on the entries of A, in all implementations, so that max_rotation_angle bounds the angle for blocks of two only: an angle is at most
2·atan(|coeff|·cot(π/(2·block_size))·tan(max_rotation_angle/2)), for the default 0.5 rad 0.50, 1.11, 1.82 and 2.41 in blocks of 2, 4, 8 and 16.
R(coeff)·R(−coeff) = I, but the outputs at coeff and −coeff do not mirror each other.
Sources: wassname/AntiPaSTO 85c09b7 `antipasto/peft_utils/antipasto_adapter.py`; antipasto3, as kept in wassname/lora-lite 19888fb
`docs/refs/antipasto3_svd_adapter.py`; wassname/lora-lite 5f9d90d `variants/antipasto_rot.py`, as recorded; arXiv:2601.07473.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lite.basis import Excited, SelectedConfig, basis, buffers
from lite.config import finite, one_of, option, options, positive_int
from lite.decomposition import rank_fits, wide
from lite.layers import Layer
from lite.variant import Shapes, Tensors, Variant, register

START = 4e-4  # mean and standard deviation of δ_s


def block(value: object) -> str | None:
    """Sizes of blocks: one component alone cannot be turned."""
    return "must be an integer of at least 2" if positive_int(value) or value == 1 else None


def angle(value: float) -> str | None:
    """Radians whose half has a tangent."""
    return "must be a number between 1e-30 and π, π excluded" if finite(value) or not 1e-30 <= value < math.pi else None


@options
class AntiPaSTORotConfig(SelectedConfig):
    """AntiPaSTO's rotation (arXiv:2601.07473). calibration_data is optional: it chooses the components; its attention_mask selects tokens.

    r: number of components that are shifted and turned: a multiple of block_size, at most min(d_out, d_in).
    coeff: factor of the angles' tangents and of δ_s: 1 as trained, 0 off, −1 back; `lite.steer` replaces it.
    act_pool: how data are pooled to choose components: "mean_abs" as in lora-lite, or "rms" over tokens.
    block_size: how many neighbouring components turn among themselves, at least 2.
    max_rotation_angle: of a rotation in one plane at coeff 1, in radians, below π; several at once add up to more (see above).
    rotate_basis: what turns: "V" (inputs), "U" (outputs), "both", each by parameters of its own, or "none", where blocks do not matter.
    """

    act_pool: str = option("mean_abs", one_of("rms", "mean_abs"))
    block_size: int = option(4, block)
    max_rotation_angle: float = option(0.5, angle)
    rotate_basis: str = option("V", one_of("V", "U", "both", "none"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotate_basis != "none" and self.r % self.block_size:
            raise ValueError(
                f"AntiPaSTORotConfig: blocks of block_size = {self.block_size} have to make up r, got r = {self.r}; "
                f"set r to a multiple, or rotate_basis to 'none'"
            )


def parameters(config: AntiPaSTORotConfig, layer: Layer) -> Shapes:
    angles = config.r // config.block_size, config.block_size * (config.block_size - 1) // 2
    turned = {"none": [], "both": ["lora_rot_T", "lora_rot_T_u"]}.get(config.rotate_basis, ["lora_rot_T"])
    return {"lora_delta_s": (config.r,), **dict.fromkeys(turned, angles)}


def init(config: AntiPaSTORotConfig, layer: Layer, seen: Excited | None = None) -> dict[str, Tensor]:
    # In place, as the author's torch draws it: the same bits.
    delta_s = torch.empty(config.r, dtype=torch.float32, device="cpu").normal_(START, START)
    still = {name: torch.zeros(shape) for name, shape in parameters(config, layer).items()}
    return still | {"lora_delta_s": delta_s} | basis(config, layer, seen)


def turn(config: AntiPaSTORotConfig, T: Tensor) -> Tensor:
    """R − I (r/block_size, block_size, block_size), in `wide`'s dtype: half precision has no solve."""
    i, j = torch.triu_indices(config.block_size, config.block_size, offset=1, device=T.device)
    A = wide(T).new_zeros(len(T), config.block_size, config.block_size)
    A[:, i, j] = wide(T) / 2
    A = A - A.mT
    limit = 2 * math.tan(config.max_rotation_angle / 2)
    X = config.coeff * (limit * torch.tanh(A / limit)) / 2
    eye = torch.eye(config.block_size, dtype=X.dtype, device=X.device)
    turned: Tensor = torch.linalg.solve(eye - X, 2 * X)
    return turned


def blockwise(h: Tensor, blocks: Tensor) -> Tensor:
    """h (…, r) times a block-diagonal matrix, as one batch of small products."""
    parts = h.reshape(*h.shape[:-1], *blocks.shape[:2])
    return torch.einsum("...ni,nij->...nj", parts, blocks.to(h.dtype)).flatten(-2)


def forward(config: AntiPaSTORotConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    h, S = F.linear(x, t["lora_Vh"]), t["lora_S"]  # (…, r)
    shift = config.coeff * t["lora_delta_s"]
    change = h * shift
    if config.rotate_basis in ("V", "both"):
        change = change + blockwise(h, turn(config, t["lora_rot_T"]).mT) * (S + shift)
    if config.rotate_basis in ("U", "both"):
        T = t["lora_rot_T_u" if config.rotate_basis == "both" else "lora_rot_T"]
        change = change + blockwise(h * S + change, turn(config, T))
    return y + F.linear(change, t["lora_U"])


ANTIPASTO_ROT = register(
    Variant(
        name="antipasto_rot",
        config=AntiPaSTORotConfig,
        parameters=parameters,
        buffers=buffers,
        init=init,
        statistics=Excited,
        needs_data=False,
        forward=forward,
        fits=rank_fits,
        reads_weight=True,
        peft={},
    )
)
