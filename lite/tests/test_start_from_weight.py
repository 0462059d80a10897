"""PiSSA, OLoRA and LoRA-XS: starts from the weight against numpy's decompositions, and residuals to the last place."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import lite
from lite.tests.toys import RESIDUAL, all_bits, attach, bits, each, inputs, snapshot

SCALES = {"alpha/r": {}, "alpha/√r": {"rslora": True}, "alpha = r": {"alpha": 3}}
each_scale = pytest.mark.parametrize("options", SCALES.values(), ids=SCALES)


def linear(dtype=torch.float64, kind=nn.Linear):
    torch.manual_seed(0)
    layer = (nn.Linear(9, 7) if kind is nn.Linear else Conv1D(7, 9)).to(dtype)
    nn.init.normal_(layer.weight)
    return layer


def weight(layer):
    """W (7, 9) in float64, a copy."""
    W = layer.weight.detach().double()
    return (W.T if isinstance(layer, Conv1D) else W).numpy().copy()


def scale(config):
    return config.alpha / (config.r**0.5 if config.rslora else config.r)


def close(one, other):
    torch.testing.assert_close(torch.as_tensor(one).detach(), torch.as_tensor(other), rtol=1e-10, atol=1e-11)


def product(layer):
    return layer.lora_B.detach() @ layer.lora_A.detach()


@each_scale
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
def test_pissa_takes_the_leading_singular_part_out(options, kind):
    layer, config = linear(kind=kind), lite.PiSSAConfig(**{"r": 3, "alpha": 5} | options)
    W = weight(layer)
    U, S, Vt = np.linalg.svd(W)
    lite.attach(layer, config)
    leading = U[:, :3] * S[:3] @ Vt[:3]
    close(scale(config) * product(layer), leading)
    close(weight(layer), W - leading)
    A, B = layer.lora_A.detach(), layer.lora_B.detach()
    close(A @ A.T, np.diag(S[:3]) / scale(config))
    close(B.T @ B, np.diag(S[:3]) / scale(config))


@each_scale
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
def test_olora_takes_the_leading_part_of_the_qr_decomposition_out(options, kind):
    layer, config = linear(kind=kind), lite.OLoRAConfig(**{"r": 3, "alpha": 5} | options)
    W = weight(layer)
    Q, R = np.linalg.qr(W)
    lite.attach(layer, config)
    A, B = layer.lora_A.detach(), layer.lora_B.detach()
    close(B.T @ B, np.eye(3))
    close(A, A.triu())
    close(B @ A, Q[:, :3] @ R[:3])
    close((B @ A)[:, :3], W[:, :3])
    close(weight(layer), W - scale(config) * Q[:, :3] @ R[:3])


@pytest.mark.parametrize("alpha", [None, 5], ids=["no alpha", "alpha 5"])
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
def test_lora_xs_holds_the_leading_factors_and_leaves_the_weight(alpha, kind):
    layer = linear(kind=kind)
    W, before = weight(layer), bits(layer.weight)
    U, S, Vt = np.linalg.svd(W)
    lite.attach(layer, lite.LoRAXSConfig(r=3, alpha=alpha))
    A, B = layer.lora_A, layer.lora_B
    close(B @ A, U[:, :3] * S[:3] @ Vt[:3])
    close(B.T @ B, np.eye(3))
    close(A @ A.T, np.diag(S[:3]) ** 2)
    assert bits(layer.weight) == before
    assert not A.requires_grad
    assert not B.requires_grad


def test_lora_xs_starts_with_a_spread_of_a_hundred_thousandth():
    R = lite.attach(nn.Linear(80, 70), lite.LoRAXSConfig(r=60)).lora_R.detach()
    assert abs(R.std() / 1e-5 - 1) < 0.05
    assert R.mean().abs() < 1e-6
    assert not torch.equal(R, R.T)


def half_unit(values):
    """Half a unit in the last place of bfloat16 numbers."""
    _, exponent = np.frexp(values)
    return 2.0 ** (exponent - 1 - 8)


@each(*RESIDUAL)
@each_scale
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D], ids=["Linear", "Conv1D"])
def test_the_residual_takes_the_rounding_of_the_factors_back(make, options, kind):
    layer, config = linear(torch.bfloat16, kind), make(**{"r": 3, "alpha": 5} | options)
    W = weight(layer)
    attach(layer, config, [inputs(20, 9, dtype=torch.bfloat16)])
    A, B = (t.detach().double().numpy() for t in (layer.lora_A, layer.lora_B))
    rest, update = weight(layer), scale(config) * B @ A
    noise = 8 * 2.0**-24 * (np.abs(W) + scale(config) * np.abs(B) @ np.abs(A))  # of sums of four in float32
    excess = np.abs(rest + update - W) - half_unit(rest) - noise
    assert excess.max() <= 0
    assert np.abs(rest + update - W).max() > noise.max()  # float32 would not be needed otherwise


@each(*RESIDUAL)
def test_factors_of_a_wider_dtype_are_not_rounded_for_the_residual(make):
    layer = linear(torch.bfloat16)
    W = weight(layer)
    attach(layer, make(r=3, dtype=torch.float32), [inputs(20, 9, dtype=torch.bfloat16)])
    assert layer.lora_A.dtype is torch.float32
    assert not torch.equal(layer.lora_A, layer.lora_A.bfloat16().float())
    rest, update = weight(layer), 8 / 3 * product(layer).double().numpy()
    assert np.abs(rest + update - W).max() <= half_unit(rest).max() + 1e-5


@each("pissa", "lora_xs")
def test_a_randomised_start_is_near_the_exact_one_and_comes_back_from_its_file(make, tmp_path):
    starts, exact = [], attach(linear(), make(r=3))
    for seed in (1, 2, 3):
        layer = linear()
        torch.manual_seed(seed)
        lite.attach(layer, make(r=3, niter=2))
        starts.append(product(layer))
        lite.save(layer, tmp_path / "file")
        torch.manual_seed(99)
        assert all_bits(lite.load(linear(), tmp_path / "file")) == all_bits(layer)
    distances = [(start - product(exact)).norm() / product(exact).norm() for start in starts]
    assert min(distances) > 1e-6
    assert max(distances) < 0.9
    assert not torch.equal(starts[0], starts[1])
    layer = linear()
    torch.manual_seed(1)
    assert torch.equal(product(lite.attach(layer, make(r=3, niter=2))), starts[0])
    many = linear()
    assert (product(lite.attach(many, make(r=3, niter=30))) - product(exact)).norm() < 1e-4 * product(exact).norm()


def randomised(W, r, niter):
    """The part of W in the span of (W Wᵀ)^niter W Ω, Ω (d, r) drawn from the global generator (Halko et al. 2009, alg. 4.4)."""
    basis = W @ torch.randn(W.shape[1], r, dtype=W.dtype)
    for _ in range(niter):
        basis = W @ (W.T @ basis)
    Q = torch.linalg.qr(basis).Q
    return Q @ (Q.T @ W)


@each("pissa", "lora_xs")
@pytest.mark.parametrize("niter", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 7), (7, 9)], ids=str)
def test_a_randomised_start_takes_as_many_power_iterations_as_it_is_told(make, niter, shape):
    torch.manual_seed(0)
    layer = nn.Linear(*shape, dtype=torch.float64)
    W = layer.weight.detach().clone()
    tall = W if len(W) == 9 else W.T
    starts = []
    for iterations in (niter, niter + 1):
        torch.manual_seed(5)
        if make.config is lite.LoRAXSConfig:
            torch.empty(3, 3).normal_()  # R is drawn first
        start = randomised(tall, 3, iterations)
        starts.append(start if tall is W else start.T)
    torch.manual_seed(5)
    lite.attach(layer, make(r=3, alpha=3, niter=niter))
    close(product(layer), starts[0])
    assert (starts[0] - starts[1]).norm() > 1e-3


@each(*RESIDUAL, "lora_xs")
def test_a_rank_above_the_weights_is_refused_and_the_full_one_taken(make):
    layer, data = linear(), [inputs(20, 9, dtype=torch.float64)]
    before = all_bits(layer)
    with pytest.raises(ValueError, match=r"on the model itself: r = 8, but a \(7, 9\) weight has only 7 components"):
        attach(layer, make(r=8), data)
    assert all_bits(layer) == before
    W = weight(layer)
    attach(layer, make(r=7, **({} if make.config is lite.LoRAXSConfig else {"alpha": 7})), data)
    close(product(layer), W)


@each("pissa", "olora", "lora_xs", "corda", "asvd", "antipasto_corda", "antipasto_asvd", "antipasto_ablate")
def test_a_weight_that_cannot_be_decomposed_is_named(make):
    layer = linear()
    nn.init.constant_(layer.weight[2:3], float("nan"))
    before, data = snapshot(layer), [inputs(30, 9, dtype=torch.float64)]
    with pytest.raises(
        ValueError, match=f"^{make.variant.name} on the model itself: no start can be computed: the weight is not finite"
    ):
        attach(layer, make(r=2), data)
    assert snapshot(layer) == before
