"""HRA against its reflections taken one by one, its paired start, and what it never builds."""

import pytest
import torch
from torch import Tensor, nn

import lite
from lite.tests.toys import inputs
from lite.variants.hra import adapt_input


@pytest.mark.parametrize("r", [2, 8, 20])
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-9, 0.0], ids=str)
def test_it_is_the_product_of_its_reflections_however_near_they_are(r, gap):
    layer, x = nn.Linear(6, 8).double(), inputs(7, 6, dtype=torch.float64)
    lite.attach(layer, lite.HRAConfig(r=r))
    with torch.no_grad():
        layer.lora_U.copy_(inputs(6, dtype=torch.float64) + gap * inputs(r, 6, seed=2, dtype=torch.float64))
    W = layer.weight.detach()
    for u in layer.lora_U.detach():
        W = W @ (torch.eye(6, dtype=torch.float64) - 2 * torch.outer(u, u) / u.square().sum())
    torch.testing.assert_close(layer(x), x @ W.T + layer.bias, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_nearly_parallel_rows_keep_the_digits_that_one_reflection_after_the_other_has(seed):
    d, r = 480, 30
    U = inputs(d, seed=seed, dtype=torch.float64) + 2.0**-20 * inputs(r, d, seed=seed + 10, dtype=torch.float64)
    U[-1] = inputs(d, seed=seed + 20, dtype=torch.float64)
    x = y = inputs(3, d, seed=seed + 30, dtype=torch.float64)
    for u in U.flip(0):
        y = y - (y @ u)[:, None] * u * (2 / (u @ u))
    off = (adapt_input(lite.HRAConfig(r=r), None, {"lora_U": U}, x) - y).norm() / y.norm()
    assert off < 16 * torch.finfo(torch.float64).eps / 2


@pytest.mark.parametrize(
    ("dtype", "sizes"), [(torch.float32, (1e-36, 1, 1e36, 1e-42)), (torch.float16, (1e-4, 1, 1e4, 1e-6))], ids=str
)
def test_a_row_may_have_any_length(dtype, sizes):
    layer = lite.attach(nn.Linear(6, 8), lite.HRAConfig(r=4)).to(dtype)
    x = inputs(7, 6, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        layer.lora_U.copy_((inputs(4, 6, seed=2, dtype=torch.float64).T * torch.tensor(sizes, dtype=torch.float64)).T)
    W = layer.weight.detach().double()
    for u in layer.lora_U.detach().double():
        W = W @ (torch.eye(6, dtype=torch.float64) - 2 * torch.outer(u, u) / u.square().sum())
    near = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(layer(x).double(), x.double() @ W.T + layer.bias.double(), rtol=near, atol=near)


def test_it_starts_with_pairs_whose_bound_follows_the_rank():
    U = lite.attach(nn.Linear(100, 8), lite.HRAConfig(r=32)).lora_U.detach()
    assert torch.equal(U[::2], U[1::2])
    assert 0.24 < U.abs().max() <= 0.25
    assert not (U[::2, None] == U[None, ::2]).all(dim=-1).triu(1).any()


def test_it_builds_nothing_of_the_size_of_a_weight():
    seen = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.extend(tuple(t.shape) for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor))
            return result

    layer = lite.attach(nn.Linear(50, 40), lite.HRAConfig(r=4))
    x = torch.ones(3, 50)
    with Sizes():
        layer(x).sum().backward()
    assert max(torch.Size(shape).numel() for shape in seen if shape not in {(40, 50), (50, 40)}) <= 4 * 50
    assert (50, 50) not in seen


def test_gram_schmidt_of_equal_pairs_is_refused_with_the_reason():
    why = "the rows start as equal pairs, whose Gram–Schmidt is undefined (0/0)"
    with pytest.raises(ValueError, match="apply_gs") as refused:
        lite.HRAConfig(apply_gs=True)
    assert str(refused.value) == f"HRAConfig: apply_gs cannot be True: {why}, got True"
