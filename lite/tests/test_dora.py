"""DoRA's two shortcuts: row norms without the dense matrix, and x Vᵀ out of y; each where it keeps its digits, and only there."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import inputs, trained
from lite.variants.dora import TOKENS, is_small, row_norms

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
    found = row_norms(W, A, 0 * B, 2.0)
    assert found.dtype is dtype
    assert found.equal(torch.linalg.norm(W, dim=1))


def test_squares_and_sums_have_more_digits_than_the_weight():
    W, A, B = factors(200, 48, dtype=torch.float16)
    exact = dense(W.double(), A.double(), B.double(), 2.0)
    off = (row_norms(W, A, B, 2.0).double() - exact).norm() / exact.norm()
    assert off < 0.28 * torch.finfo(torch.float16).eps  # rounding the norms alone takes 0.22


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_rows_that_cancel_are_computed_in_full(dtype):
    W, A, B = factors(dtype=dtype)
    W[2:4] = -2.0 * (B @ A)[2:4] + 1e-2 * W[2:4]
    exact = dense(W, A, B, 2.0)
    found = row_norms(W, A, B, 2.0)
    assert found[2:4].equal(exact[2:4])
    torch.testing.assert_close(found, exact, rtol=32 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_that_leave_the_dtype_are_not_taken(size):
    W, A, B = (size * factor if name == "W" else factor for name, factor in zip("WAB", factors(dtype=torch.float32), strict=True))
    torch.testing.assert_close(row_norms(W, A, size * B, 2.0), dense(W, A, size * B, 2.0), rtol=1e-6, atol=0)


OUTPUTS = 4
QUIET = 2  # the column whose results are the smallest


def example(rows, times):
    """Some results, whose first half is twice as large, and b, which in one column is so many times their mean size."""
    rest = inputs(rows, OUTPUTS, dtype=torch.float64)
    rest[: rows // 2] *= 2
    rest[:, QUIET] /= 8
    bias = torch.zeros(OUTPUTS, dtype=torch.float64)
    bias[QUIET] = -times * rest[:TOKENS, QUIET].abs().mean()
    return bias, rest + bias


@pytest.mark.parametrize("rows", [1, 9, 3 * TOKENS])
@pytest.mark.parametrize(("times", "small"), [(0.0, True), (3.99, True), (4.01, False), (1e9, False)])
def test_a_bias_is_small_if_no_column_has_it_much_larger_than_its_first_results(rows, times, small):
    bias, added = example(rows, times)
    assert is_small(bias, added) is small
    assert is_small(bias, added.reshape(rows, 1, OUTPUTS)) is small


def test_one_token_without_a_batch_has_a_size_too():
    bias, added = example(1, 4.01)
    assert not is_small(bias, added[0])
    assert is_small(bias / 2, added[0] - bias / 2)


def test_sizes_are_averaged_in_float32_at_least():
    bias = torch.tensor([1.0, 6e4], dtype=torch.float16)
    assert not is_small(bias, bias + torch.full((64, 2), 2000, dtype=torch.float16))  # the sum is too large for it


def test_a_bias_may_be_exactly_so_much_larger():
    assert is_small(torch.tensor([4.0]), torch.tensor([[5.0], [5.0]]))


def test_what_is_compiled_takes_no_decision(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not is_small(*example(9, 0.0))


@pytest.mark.parametrize("size", [0.1, 1e6])
def test_the_magnitudes_keep_their_gradients_whatever_the_bias(size):
    torch.manual_seed(0)
    layer, x = nn.Linear(11, 4, dtype=torch.float64), inputs(9, 11, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.fill_(size)
    trained(lite.attach(layer, lite.DoRAConfig(r=2)))
    V = (layer.weight + 4 * layer.lora_B @ layer.lora_A).detach()
    layer(x).sum().backward()
    torch.testing.assert_close(layer.lora_m.grad, (x @ V.T).sum(dim=0) / V.norm(dim=1), rtol=1e-13, atol=1e-13)
