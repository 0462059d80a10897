"""DoRA's two shortcuts: row norms without the dense matrix, and x Wᵀ out of y; each where it keeps its digits, and only there."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from lite.layers import Layer
from lite.tests.toys import inputs
from lite.variants.dora import product, row_norms

UNIT = torch.finfo(torch.float64).eps / 2


def factors(rows=7, columns=11, r=3, dtype=torch.float64):
    return [
        inputs(*shape, seed=seed, dtype=torch.float64).to(dtype)
        for seed, shape in enumerate(((rows, columns), (r, columns), (rows, r)))
    ]


def dense(W, A, B, s):
    return torch.linalg.norm(W + s * (B @ A), dim=1)


@pytest.mark.parametrize("s", [0.5, 2.0, -1.5])
def test_row_norms_are_those_of_the_dense_matrix(s):
    W, A, B = factors()
    torch.testing.assert_close(row_norms(W, A, B, s), dense(W, A, B, s), rtol=64 * UNIT, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_row_norms_begin_as_those_of_the_weight(dtype):
    W, A, B = factors(dtype=dtype)
    assert row_norms(W, A, 0 * B, 2.0).equal(torch.linalg.norm(W, dim=1))


def test_rows_that_cancel_are_computed_in_full():
    W, A, B = factors()
    W[2] = -2.0 * (B @ A)[2] + 1e-9 * W[2]
    exact = dense(W, A, B, 2.0)
    found = row_norms(W, A, B, 2.0)
    assert found[2].equal(exact[2])
    torch.testing.assert_close(found, exact, rtol=64 * UNIT, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_that_leave_the_dtype_are_not_taken(size):
    W, A, B = (size * factor if name == "W" else factor for name, factor in zip("WAB", factors(dtype=torch.float32), strict=True))
    torch.testing.assert_close(row_norms(W, A, size * B, 2.0), dense(W, A, size * B, 2.0), rtol=1e-6, atol=0)


def layer_of(bias, dtype=torch.float64):
    torch.manual_seed(0)
    module = nn.Linear(11, 4, dtype=dtype)
    with torch.no_grad():
        module.bias.copy_(torch.as_tensor(bias))
    return Layer("", module, 11, 4, transposed=False)


def both(layer, x):
    """What `product` gives, y − b, and x Wᵀ."""
    W, y = layer.weight.detach(), layer.module(x).detach()
    return product(layer, W, x, y), y - layer.bias.detach(), linear(x, W)


def test_a_small_bias_is_taken_off_again():
    found, rest, exact = both(layer_of([0.1, -0.2, 0.3, 0.0]), inputs(9, 11, dtype=torch.float64))
    assert found.equal(rest)
    assert not rest.equal(exact)


@pytest.mark.parametrize(("times", "taken_off"), [(3.9, True), (4.1, False)])
def test_one_column_with_a_large_bias_is_enough(times, taken_off):
    x = inputs(9, 11, dtype=torch.float64)
    layer = layer_of([0.0] * 4)
    rms = linear(x, layer.weight).square().mean(dim=0).sqrt()
    quietest = int(rms.argmin())
    with torch.no_grad():
        layer.module.bias[quietest] = -times * rms[quietest]
    found, rest, exact = both(layer, x)
    assert not rest.equal(exact)
    assert found.equal(rest if taken_off else exact)


def test_what_is_compiled_takes_no_decision(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found, rest, exact = both(layer_of([0.1] * 4), inputs(9, 11, dtype=torch.float64))
    assert found.equal(exact)
    assert not rest.equal(exact)
