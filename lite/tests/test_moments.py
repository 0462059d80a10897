"""Components that data orient, against numpy: by the covariance of the input, and by its diagonal."""

import numpy as np
import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import each, inputs, snapshot

CALLS = [inputs(2, 5, 9, seed=71, dtype=torch.float64), 3 * inputs(4, 9, seed=72, dtype=torch.float64) - 2]
X = torch.cat([x.reshape(-1, 9) for x in CALLS]).numpy()
EPS = 0.02
ORIENTED = {"antipasto_corda": "lora_P", "antipasto_asvd": "lora_P", "antipasto_ablate": "lora_Vh"}  # and what stands on the right
each_oriented = each(*ORIENTED)


def layer(dtype=torch.float64):
    torch.manual_seed(0)
    made = nn.Linear(9, 7, dtype=torch.float64)
    nn.init.normal_(made.weight)
    return made.to(dtype)


def weight():
    return layer().weight.detach().numpy()


def started(make, data=CALLS, base=torch.float64, **options):
    """U, S and what stands on the right."""
    live = lite.attach(layer(base), make(r=3, cov_orient=True, **{"cov_eps": EPS} | options), data)
    return (live.lora_U.numpy(), live.lora_S.numpy(), getattr(live, ORIENTED[make.variant.name]).numpy())


def moments(make, x=X, eps=EPS):
    """C, or its diagonal, of the tokens x, and eps on its diagonal."""
    C = sum(np.outer(token, token) for token in x) / len(x)
    return (np.diag(np.diag(C)) if make.config is lite.AntiPaSTOASVDConfig else C) + eps * np.eye(9)


def root(C, power):
    values, vectors = np.linalg.eigh(C)
    return vectors * values**power @ vectors.T


def part(W, C, r, power):
    """The r largest components of W C^power, with C^power taken out again."""
    U, S, Qt = np.linalg.svd(W @ root(C, power))
    return U[:, :r] * S[:r] @ Qt[:r] @ root(C, -power)


@each_oriented
def test_the_components_are_those_of_the_weight_times_the_root_of_the_moments(make):
    (U, S, P), C, W = started(make), moments(make), weight()
    np.testing.assert_allclose(U * S @ P, part(W, C, 3, 0.5), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(U.T @ U, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(P @ C @ P.T, np.eye(3), atol=1e-11)
    np.testing.assert_allclose(S, np.linalg.svd(W @ root(C, 0.5))[1][:3], rtol=1e-12)


@each_oriented
def test_no_other_part_of_that_rank_leaves_less_of_the_output(make):
    """Eckart and Young's: what is left has the norm of the other components, weighted by the moments."""
    (U, S, P), C, W = started(make), moments(make), weight()
    left = np.linalg.norm((W - U * S @ P) @ root(C, 0.5))
    np.testing.assert_allclose(left, np.linalg.norm(np.linalg.svd(W @ root(C, 0.5))[1][3:]), rtol=1e-10)
    Uw, Sw, Vt = np.linalg.svd(W)
    assert np.linalg.norm((W - Uw[:, :3] * Sw[:3] @ Vt[:3]) @ root(C, 0.5)) > 1.01 * left


@each("antipasto_corda", "antipasto_ablate")
def test_it_is_not_cordas_part_which_leaves_more_for_such_inputs(make):
    """peft and CorDA's author decompose W C and take C⁻¹ out."""
    (U, S, P), C, W = started(make), moments(make), weight()
    cordas = part(W, C, 3, 1)
    assert np.abs(U * S @ P - cordas).max() > 0.1 * np.abs(cordas).max()
    left, cordas_left = (np.linalg.norm((W - taken) @ root(C, 0.5)) for taken in (U * S @ P, cordas))
    assert cordas_left > 1.02 * left


@each_oriented
def test_every_token_of_every_call_counts_alike(make):
    whole, parts = (started(make, data) for data in ([torch.from_numpy(X)], torch.from_numpy(X).split([1, 2, 7, 4])))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(np.abs(one), np.abs(other), rtol=1e-10, atol=1e-11)


@each_oriented
def test_data_that_lack_directions_leave_eps_of_them(make):
    few = X[:4] * (np.arange(9) < 5)
    (U, S, P), W = started(make, [torch.from_numpy(few)], cov_eps=1e-8), weight()
    assert np.isfinite(P).all()
    np.testing.assert_allclose(U * S @ P, part(W, moments(make, few, 1e-8), 3, 0.5), rtol=1e-6, atol=1e-6)


@each_oriented
def test_a_weight_of_zeros_and_one_of_low_rank_have_components(make):
    for rank in (0, 1):
        live = layer()
        with torch.no_grad():
            live.weight[:, rank:] = 0
        lite.attach(live, make(r=3, cov_orient=True), CALLS)
        assert all(tensor.isfinite().all() for tensor in live.state_dict().values())
        taken = (live.lora_U * live.lora_S) @ getattr(live, ORIENTED[make.variant.name])
        torch.testing.assert_close(taken, live.weight.detach(), rtol=0, atol=1e-12)


@each_oriented
def test_the_start_is_computed_in_float64_whatever_the_dtypes(make):
    exact = started(make, [x.float() for x in CALLS], torch.float32, dtype=torch.float64)
    rounded = started(make, [x.float() for x in CALLS], torch.float32)
    for wide, narrow in zip(exact, rounded, strict=True):
        assert wide.dtype == np.float64
        assert (wide.astype(np.float32) == narrow).all()
        assert (narrow.astype(np.float64) != wide).any()


@each_oriented
def test_fewer_tokens_than_components_are_refused(make):
    model = layer()
    before = snapshot(model)
    with pytest.raises(
        ValueError, match=r"on the model itself: no start .*: 2 tokens are too few for r = 3 components; at least 3"
    ):
        lite.attach(model, make(r=3, cov_orient=True), [CALLS[1][:2]])
    assert snapshot(model) == before
    lite.attach(model, make(r=3, cov_orient=True), [CALLS[1][:3]])


@each_oriented
def test_an_input_whose_squares_overflow_is_refused(make):
    model = layer()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"batch 2: the model itself: values up to 1e\+200 overflow when squared"):
        lite.attach(model, make(r=3, cov_orient=True), [CALLS[0], torch.full((3, 9), -1e200, dtype=torch.float64)])
    assert snapshot(model) == before
