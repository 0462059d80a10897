"""ASVD: the decomposition that looks at the inputs against one computed with numpy."""

import numpy as np
import pytest
import torch
from torch import nn

import lite
from lite.layers import Layer
from lite.tests.files import content
from lite.tests.toys import all_bits, inputs, snapshot, trained
from lite.variants.asvd import InputSizes

CALLS = [inputs(2, 5, 6, seed=71, dtype=torch.float64), inputs(3, 4, 6, seed=72, dtype=torch.float64) - 2]


def linear(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(6, 5, dtype=torch.float64).to(dtype)


def expected(W, calls, r, method, act_alpha):
    """U_r, S_r and V_rᵀ diag(c)⁻¹."""
    parts = [abs(x.reshape(-1, x.shape[-1]).numpy()) for x in calls]
    sizes = sum(x.mean(axis=0) for x in parts) if method == "abs_mean" else np.concatenate(parts).max(axis=0)
    c = sizes**act_alpha + 1e-6
    U, S, Vt = np.linalg.svd(W * c, full_matrices=False)
    return U[:, :r], S[:r], Vt[:r] / c


def close(one, other):
    torch.testing.assert_close(one.detach(), torch.as_tensor(other), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["abs_mean", "abs_max"])
@pytest.mark.parametrize("act_alpha", [0.5, 2.0])
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "alpha/√r"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
def test_the_start_is_the_leading_part_by_the_sizes_of_the_inputs(method, act_alpha, rslora, residual):
    layer, x = linear(), inputs(4, 6, dtype=torch.float64)
    W, before = layer.weight.detach().numpy().copy(), snapshot(layer)
    config = lite.ASVDConfig(r=2, alpha=3, scaling_method=method, act_alpha=act_alpha, rslora=rslora, residual=residual)
    lite.attach(layer, config, CALLS)
    U, S, V = expected(W, CALLS, 2, method, act_alpha)
    s = 3 / (2**0.5 if rslora else 2)
    A, B = layer.lora_A.detach(), layer.lora_B.detach()
    close(s * B @ A, U * S @ V)
    close(B.T @ B, np.diag(S) / s)  # one half of S on each side
    close(layer.weight, W - U * S @ V if residual else 0 * W)
    whole = torch.from_numpy(W if residual else U * S @ V)
    close(layer(x), x @ whole.T + layer.bias.detach())
    assert snapshot(lite.detach(trained(layer))) == before


def test_the_methods_and_powers_differ():
    starts = [
        lite.attach(linear(), lite.ASVDConfig(r=2, **options), CALLS).weight.detach()
        for options in ({}, {"scaling_method": "abs_max"}, {"act_alpha": 2.0}, {"residual": False})
    ]
    assert min((one - other).norm() for i, one in enumerate(starts) for other in starts[:i]) > 1e-2


def test_more_calls_move_the_balance_not_the_part():
    once, often = (lite.attach(linear(), lite.ASVDConfig(r=2), n * CALLS) for n in (1, 16))
    ratio = 16**0.25  # √ of c, which is the root of the sum
    torch.testing.assert_close(often.lora_B, once.lora_B * ratio, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(often.lora_A, once.lora_A / ratio, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(often.weight, once.weight, rtol=1e-5, atol=1e-5)


def test_a_column_that_nothing_reaches_keeps_its_digits():
    layer = linear()
    W = layer.weight.detach().clone()
    lite.attach(layer, lite.ASVDConfig(r=5, alpha=5), [x * (torch.arange(6) > 0) for x in CALLS])
    torch.testing.assert_close(layer.lora_B @ layer.lora_A, W, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_file_is_small_and_brings_everything_back_without_data(residual, dtype, tmp_path):
    layer = lite.attach(linear(dtype), lite.ASVDConfig(r=2, residual=residual), [x.to(dtype) for x in CALLS])
    lite.save(trained(layer), tmp_path / "file")
    loaded = lite.load(linear(dtype), tmp_path / "file")
    assert all_bits(loaded) == all_bits(layer)
    lite.save(loaded, tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "calls", "words"),
    [
        ({}, [0 * CALLS[0]], "no start can be computed: every input of the calibration data is zero"),
        ({}, [], "calibration_data is empty"),
        ({}, [CALLS[0], CALLS[1] * torch.nan], "batch 2: the model itself received values that are not finite"),
        (
            {},
            [CALLS[0], torch.full((3, 6), 1e308, dtype=torch.float64)],
            r"batch 2: the model itself: values up to 1e\+308 overflow",
        ),
        ({"act_alpha": 200}, [100 * CALLS[0]], r"inputs of size \d+(\.\d+)? overflow at act_alpha = 200"),
        (
            {"act_alpha": 1.0, "scaling_method": "abs_max"},
            [torch.full((3, 6), 1e308, dtype=torch.float64)],
            r"the weight overflows when its columns are scaled by up to 1e\+308",
        ),
    ],
    ids=["zeros", "nothing", "not finite", "a sum that overflows", "a power that overflows", "a product that overflows"],
)
def test_data_that_gives_no_start_is_refused(options, calls, words):
    layer = linear()
    nn.init.constant_(layer.weight, 7.0)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=words):
        lite.attach(layer, lite.ASVDConfig(r=2, **options), calls)
    assert snapshot(layer) == before


def test_sizes_are_added_up_in_float64_whatever_the_model_computes_in():
    x = inputs(7, 6, seed=73).bfloat16()
    sizes = InputSizes(lite.ASVDConfig(), Layer("", linear(), 6, 5, transposed=False))
    sizes.update(x)
    assert sizes.sizes.equal(x.double().abs().mean(dim=0))
