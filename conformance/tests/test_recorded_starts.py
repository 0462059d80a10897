"""Where lora-lite's recordings keep the data, lite starts from them as it did; it decomposes in float32."""

import pytest
import torch
from torch import nn

import lite
from conformance import policy
from refs import recorded

CONFIGS = {"antipasto_corda": lite.AntiPaSTOCorDAConfig, "antipasto_asvd": lite.AntiPaSTOASVDConfig}
NAMES = [name for variant in CONFIGS for name in recorded.names(f"lora_lite/{variant}")]


def tensors(name):
    """A recording's, in float64."""
    return {key: value.double() for key, value in recorded.read(name).tensors.items()}


def start(told, variant, r):
    """U, S, P of lite, from a recording's weight and data."""
    layer = nn.Linear(*reversed(told["weight"].shape), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(told["weight"])
    lite.attach(layer, CONFIGS[variant](r=r), list(told["calib.x"]))
    return layer.lora_U, layer.lora_S, layer.lora_P


def amplified(S):
    """By how much the rounding of a decomposition grows in each of the first eight components: their neighbours are so near."""
    apart = torch.stack([S[:8] - S[1:9], torch.cat([S.new_tensor([torch.inf]), S[:7] - S[1:8]])]).amin(dim=0)
    return S[0] / apart


@pytest.mark.parametrize("name", NAMES)
def test_lite_starts_from_recorded_data_as_lora_lite_did(name):
    told, variant = tensors(name), name.split("/")[1]
    n, (U, S, P), (_, all_S, _) = max(told["weight"].shape), start(told, variant, 8), start(told, variant, 16)
    gaps = amplified(all_S)
    sign = (U * told["buffer.lora_U"]).sum(dim=0).sign()
    bound = policy.FUNCTION * n**0.5 * policy.U32
    left, right = U * sign - told["buffer.lora_U"], P * sign[:, None] - told["buffer.lora_P"]
    assert (left.norm(dim=0) <= bound * gaps).all()
    assert (right.norm(dim=1) <= bound * gaps * P.norm(dim=1)).all()
    assert policy.distance(S, told["buffer.lora_S"]) <= bound
    assert policy.distance(told["weight"] - U * S @ P, told["weight_after"]) <= bound * gaps.max()


def test_the_sizes_by_which_it_differs_from_corda_are_those_of_its_header():
    told = tensors("lora_lite/antipasto_corda/vec_0")
    x, W = told["calib.x"].reshape(-1, 24), told["weight"]
    values, vectors = torch.linalg.eigh(x.T @ x / len(x) + 1e-3 * torch.eye(24))
    parts = []
    for power in (0.5, 1.0):
        U, S, Qh = torch.linalg.svd(W @ (vectors * values**power) @ vectors.T, full_matrices=False)
        parts.append(U[:, :8] * S[:8] @ Qh[:8] @ (vectors * values**-power) @ vectors.T)
    left = [float(((W - part) @ (vectors * values.sqrt())).norm()) for part in parts]
    sizes = [float((parts[0] - parts[1]).abs().max()), float(parts[0].abs().max()), *left]
    header = " ".join((lite.variants.antipasto_corda.__doc__ or "").split())
    assert (
        "differ by {:.3f} where they have {:.2f}, and what is left of W has a weighted norm of {:.3f}, of {:.3f} with C".format(
            *sizes
        )
        in header
    )
