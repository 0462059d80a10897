"""CorDA: the context-oriented decomposition against one computed with numpy."""

import numpy as np
import pytest
import torch
from torch import nn

import lite
from lite.layers import as_layer
from lite.tests.toys import inputs, snapshot
from lite.variants.corda import Covariance

CALLS = [inputs(2, 5, 6, seed=71, dtype=torch.float64), inputs(3, 4, 6, seed=72, dtype=torch.float64) - 2]


def linear(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(6, 5, dtype=torch.float64).to(dtype)


def covariance(calls):
    """C before it is damped: every call divided by the size of its largest entry, signs counted."""
    parts = [x.reshape(-1, x.shape[-1]).numpy() for x in calls]
    return sum((x / abs(x.max())).T @ (x / abs(x.max())) for x in parts) / len(parts)


def expected(W, calls, r, mode, damp):
    """U_r, S_r and V_rᵀ C⁻¹."""
    C = covariance(calls)
    C = C + damp * np.diag(C).mean() * np.eye(len(C))
    U, S, Vt = np.linalg.svd(W @ C, full_matrices=False)
    part = slice(r) if mode == "ipm" else slice(len(S) - r, None)
    return U[:, part], S[part], Vt[part] @ np.linalg.inv(C)


def close(one, other):
    torch.testing.assert_close(one.detach(), torch.as_tensor(other), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
@pytest.mark.parametrize("damp", [0.01, 1.0])
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "alpha/√r"])
def test_the_start_is_the_part_that_matters_most_or_least(mode, damp, rslora):
    layer = linear()
    W = layer.weight.detach().numpy().copy()
    lite.attach(layer, lite.CorDAConfig(r=2, alpha=3, mode=mode, damp=damp, rslora=rslora), CALLS)
    U, S, V = expected(W, CALLS, 2, mode, damp)
    s = 3 / (2**0.5 if rslora else 2)
    A, B = layer.lora_A.detach(), layer.lora_B.detach()
    close(s * B @ A, U * S @ V)
    close(B.T @ B, np.diag(S) / s)  # one half of S on each side
    close(layer.weight, W - U * S @ V)


def test_the_modes_and_the_damping_differ():
    starts = [
        lite.attach(linear(), lite.CorDAConfig(r=2, **options), CALLS).weight.detach()
        for options in ({}, {"mode": "kpm"}, {"damp": 1.0})
    ]
    assert min((one - other).norm() for i, one in enumerate(starts) for other in starts[:i]) > 1e-2


def test_a_call_is_scaled_by_its_largest_entry_with_its_sign():
    x = CALLS[0].clone()
    x[0, 0, 0] = -50
    assert x.abs().max() == 50
    assert x.max() < 3
    layer = linear()
    W = layer.weight.detach().numpy().copy()
    lite.attach(layer, lite.CorDAConfig(r=2), [x, CALLS[1]])
    U, S, V = expected(W, [x, CALLS[1]], 2, "ipm", 0.01)
    close(layer.weight, W - U * S @ V)


def test_every_call_counts_alike_whatever_its_size():
    one = lite.attach(linear(), lite.CorDAConfig(r=2), CALLS)
    other = lite.attach(linear(), lite.CorDAConfig(r=2), [1000 * CALLS[0], CALLS[1]])
    close(one.weight, other.weight.detach())


def test_damping_is_doubled_until_the_inverse_holds():
    few, tiny = CALLS[0][0, :3], 1e-30  # three tokens in six dimensions
    kept = Covariance(lite.CorDAConfig(), as_layer("", linear()))
    kept.update(few)
    C, eye = covariance([few]), np.eye(6)
    damped = kept.damped(tiny).numpy()
    added = np.diag(damped - C).mean()
    assert np.abs(damped - C - added * eye).max() < 1e-15
    doublings = np.log2(added / np.diag(C).mean() / tiny)
    assert abs(doublings - round(doublings)) < 0.01
    assert 40 < doublings < 70
    assert np.linalg.norm(damped @ np.linalg.inv(damped) - eye) < 0.05
    too_little = C + added / 16 * eye
    assert np.linalg.norm(too_little @ np.linalg.inv(too_little) - eye) > 0.05
    close(kept.damped(0.01), C + 0.01 * np.diag(C).mean() * eye)
    assert lite.attach(linear(), lite.CorDAConfig(r=2, damp=tiny), [few]).lora_A.isfinite().all()


def test_damping_is_doubled_once_if_the_first_inverse_is_a_little_too_far_off(monkeypatch):
    # So that ‖C C⁻¹ − I‖ in the Frobenius norm is a little above 0.05, then a little below, whatever the processor's rounding.
    errors = iter([0.051, 0.049])
    inverse = torch.linalg.inv_ex

    def inexact(C):
        right, info = inverse(C)
        return right * (1 + next(errors) / len(C) ** 0.5), info

    monkeypatch.setattr(torch.linalg, "inv_ex", inexact)
    kept = Covariance(lite.CorDAConfig(), as_layer("", linear()))
    kept.update(CALLS[0].reshape(-1, 6))
    C = covariance(CALLS[:1])
    close(kept.damped(0.01), C + 0.02 * np.diag(C).mean() * np.eye(6))


def test_damping_that_overflows_ends():
    layer = linear()
    before = snapshot(layer)
    with pytest.raises(
        ValueError, match=r"corda on the model itself: no start .* damped covariance overflows float64 at damp = 1\.7e"
    ):
        lite.attach(layer, lite.CorDAConfig(r=2, damp=1.7e308), [100 * CALLS[0].abs() - 99 * CALLS[0].abs().max()])
    assert snapshot(layer) == before


def test_an_input_that_overflows_beside_its_largest_entry_is_refused():
    layer = linear()
    before = snapshot(layer)
    x = torch.full((3, 6), -1e200, dtype=torch.float64)
    x[0, 0] = 1e-2
    with pytest.raises(ValueError, match=r"batch 2: .*values up to 1e\+200, divided by the largest, 0\.01, overflow when squared"):
        lite.attach(layer, lite.CorDAConfig(r=2), [CALLS[0], x])
    assert snapshot(layer) == before


def test_an_input_without_a_largest_entry_is_refused():
    layer = linear()
    before = snapshot(layer)
    with pytest.raises(
        ValueError, match="batch 2: the model itself: the largest entry of a call's input is 0, so that CorDA cannot scale it"
    ):
        lite.attach(layer, lite.CorDAConfig(r=2), [CALLS[0], -CALLS[0].abs() * (torch.arange(6) > 0)])
    assert snapshot(layer) == before


def test_calls_are_added_up_in_float64_whatever_the_model_computes_in():
    x = inputs(7, 6, seed=73).bfloat16()
    seen = Covariance(lite.CorDAConfig(), as_layer("", linear()))
    seen.update(x)
    scaled = x.double() / x.double().max().abs()
    assert seen.sum.equal(scaled.T @ scaled)


def test_tokens_of_all_calls_count_and_r_of_them_are_enough():
    lite.attach(linear(), lite.CorDAConfig(r=4), [call[:1, :2] for call in CALLS])
    with pytest.raises(ValueError, match="4 tokens are too few for r = 5 components; at least 5 are needed"):
        lite.attach(linear(), lite.CorDAConfig(r=5), [call[:1, :2] for call in CALLS])
