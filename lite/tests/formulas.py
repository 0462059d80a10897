"""What the methods' papers say that an adapted layer computes, in plain float64."""

import math

import torch
from torch import Tensor, nn

import lite
from lite.basis import BasisConfig


def formula(config: lite.Config, layer: nn.Linear, x: Tensor) -> Tensor:
    """The output of an adapted layer, from its base weight and the adapter's tensors."""
    t = {name: value.detach().double() for name, value in layer.state_dict().items()}
    W, b, x = t["weight"], t.get("bias", torch.zeros(1).double()), x.double()
    match config:
        case lite.IA3Config():
            return t["lora_g"] * (x @ W.T + b)
        case lite.IA3FFConfig():
            return (t["lora_g"] * x) @ W.T + b
        case lite.HRAConfig():
            for u in t["lora_U"]:
                W = W - 2 * torch.outer(W @ u, u) / (u @ u)
            return x @ W.T + b
        case lite.RoadConfig():
            return (x @ W.T + b) @ turn(config, t["lora_theta"], t["lora_alpha"], len(W)).T
        case lite.DeLoRAConfig():
            n = W.pow(2).sum(0).sqrt()
            for a, c in zip(t["lora_A"], t["lora_B"].T, strict=True):
                size = a.pow(2).sum().sqrt().clamp(min=1e-4) * c.pow(2).sum().sqrt().clamp(min=1e-4)
                W = W + t["lora_lambda"] / config.r * torch.outer(c, a * n) / size
            return x @ W.T + b
        case lite.LoRAXSConfig():
            s = 1 if config.alpha is None else config.alpha / config.r
            return x @ (W + s * t["lora_B"] @ t["lora_R"] @ t["lora_A"]).T + b
        case BasisConfig():
            right = t["lora_P"] if "lora_P" in t else t["lora_Vh"]
            return x @ (W + t["lora_U"] @ (core(config, t) - t["lora_S"].diag()) @ right).T + b
    s = config.alpha / (config.r**0.5 if config.rslora else config.r)
    W = W + s * t["lora_B"] @ t["lora_A"]
    if isinstance(config, lite.DoRAConfig):
        W = t["lora_m"][:, None] * W / W.pow(2).sum(1, keepdim=True).sqrt()
    elif config.lora_bias:
        b = b + s * t["lora_b"]
    return x @ W.T + b


def core(config: BasisConfig, t: dict[str, Tensor]) -> Tensor:
    """What stands between the singular vectors (r, r); without an adapter the singular values."""
    match config:
        case lite.AntiPaSTOAblateConfig():
            taken = torch.zeros(config.r, config.r, dtype=torch.float64)
            for alpha, column in zip(t["lora_alpha"].tolist(), columns(t["lora_c"]), strict=True):
                taken += min(max(alpha, 0.0), 1.0) * torch.outer(column, column)
            return t["lora_S"].diag() - config.coeff * taken @ t["lora_S"].diag()
        case lite.AntiPaSTOConfig() | lite.AntiPaSTOCorDAConfig() | lite.AntiPaSTOASVDConfig():
            return (t["lora_S"] * gain(config, t["lora_g"])).diag()
        case lite.AntiPaSTODPLRConfig():
            product = sum(torch.outer(b, a) for a, b in zip(t["lora_A"], t["lora_B"].T, strict=True))
            return (t["lora_S"] * gain(config, t["lora_g"])).diag() + config.coeff * product
        case lite.AntiPaSTOArrowConfig():
            K = t["lora_S"].diag()
            for i in range(config.r):
                for j in range(config.r):
                    if max(i, j) < config.block:
                        K[i, j] += config.coeff * t["lora_M"][i, j] * t["lora_S"][j]
            gains = [1.0] * config.block + gain(config, t["lora_g"]).tolist()
            return K * torch.tensor(gains, dtype=K.dtype)
        case lite.AntiPaSTORotConfig():
            K = (t["lora_S"] + config.coeff * t["lora_delta_s"]).diag()
            if config.rotate_basis in ("V", "both"):
                K = K @ rotation(config, t["lora_rot_T"])
            if config.rotate_basis in ("U", "both"):
                K = rotation(config, t["lora_rot_T_u" if config.rotate_basis == "both" else "lora_rot_T"]).T @ K
            return K
    raise NotImplementedError(type(config).__name__)


def columns(c: Tensor) -> list[Tensor]:
    """The orthonormal directions of an ablation."""
    if c.shape[1] == 1:
        return [c[:, 0] / (c[:, 0].pow(2).sum().sqrt() + 1e-6)]
    made: list[Tensor] = []
    for column in c.T:
        rest = column - sum((m * (m @ column) for m in made), torch.zeros_like(column))
        made.append(rest / rest.pow(2).sum().sqrt())
    return made


def gain(config: BasisConfig, g: Tensor) -> Tensor:
    """1 + ELU, number by number."""
    z = [config.coeff * (min(value, 0.0) if config.suppress_only else value) for value in g.tolist()]
    return torch.tensor([1 + value if value > 0 else math.exp(value) for value in z], dtype=torch.float64)


def rotation(config: lite.AntiPaSTORotConfig, T: Tensor) -> Tensor:
    """R (r, r), whose blocks' entries are taken from T one after the other: above the diagonal, by rows."""
    X, limit, values = T.new_zeros(config.r, config.r), 2 * math.tan(config.max_rotation_angle / 2), iter(T.flatten().tolist())
    for first in range(0, config.r, config.block_size):
        for i in range(first, first + config.block_size):
            for j in range(i + 1, first + config.block_size):
                X[i, j] = config.coeff * limit * math.tanh(next(values) / 2 / limit) / 2
                X[j, i] = -X[i, j]
    return (torch.eye(config.r) - X).inverse() @ (torch.eye(config.r) + X)


def turn(config: lite.RoadConfig, theta: Tensor, alpha: Tensor, d_out: int) -> Tensor:
    """RoAd's R (d_out, d_out), entry by entry."""
    R, half = theta.new_zeros(d_out, d_out), config.group_size // 2
    for pair in range(d_out // 2):
        group, place = divmod(pair, half)
        i = group * config.group_size + place
        j = i + half
        # Which angle and scale each of the four entries has.
        ii, ij, ji, jj = {
            "road_1": (pair, pair, pair, pair),
            "road_2": (i, i, j, j),
            "road_4": (i + group * 2 * half, i + group * 2 * half, j + group * 2 * half, j + group * 2 * half),
        }[config.road_variant]
        if config.road_variant == "road_4":  # the sines' come after the cosines'
            ij, ji = ij + 2 * half, ji + 2 * half
        R[i, i], R[i, j] = alpha[ii] * theta[ii].cos(), -alpha[ij] * theta[ij].sin()
        R[j, i], R[j, j] = alpha[ji] * theta[ji].sin(), alpha[jj] * theta[jj].cos()
    return R
