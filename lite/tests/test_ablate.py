"""AntiPaSTO's ablation: directions, their order, strengths at and beyond the ends, and when it takes data."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.formulas import formula
from lite.tests.toys import inputs, net, snapshot


def layer(c=None, alpha=None, dtype=torch.float64, **options):
    """A layer with told directions (r, k) and strengths."""
    torch.manual_seed(0)
    live = nn.Linear(9, 7, dtype=torch.float64)
    nn.init.normal_(live.weight)
    live = lite.attach(live.to(dtype), lite.AntiPaSTOAblateConfig(r=4, **options))
    with torch.no_grad():
        for name, value in (("lora_c", c), ("lora_alpha", alpha)):
            if value is not None:
                getattr(live, name).copy_(torch.as_tensor(value, dtype=torch.float64))
    return live


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


C = inputs(4, 3, seed=3, dtype=torch.float64)
X = inputs(5, 9, seed=4, dtype=torch.float64)
STRENGTHS = [[0.2, 0.9, 0.5], [0.0, 1.0, 0.3], [-0.4, 1.7, 0.6]]


@pytest.mark.parametrize("alpha", STRENGTHS, ids=["inside", "at the ends", "beyond"])
@pytest.mark.parametrize("coeff", [1.0, -1.0, 0.3])
def test_several_directions_are_those_of_gram_and_schmidt_in_their_order(alpha, coeff):
    live = layer(C, alpha, k=3, coeff=coeff)
    config = lite.AntiPaSTOAblateConfig(r=4, k=3, coeff=coeff)
    close(live(X).detach(), formula(config, live, X))
    swapped = layer(C[:, [1, 0, 2]], [alpha[1], alpha[0], alpha[2]], k=3, coeff=coeff)
    assert (swapped(X) - live(X)).norm() > 1e-2 * live(X).norm()


def test_a_strength_has_gradient_at_the_ends_and_none_beyond():
    live = layer(C, [0.0, 1.0, 0.3], k=3)
    live(X).square().sum().backward()
    at_ends = live.lora_alpha.grad.clone()
    assert at_ends.all()
    inside = layer(C, [1e-9, 1 - 1e-9, 0.3], k=3)
    inside(X).square().sum().backward()
    torch.testing.assert_close(at_ends, inside.lora_alpha.grad, rtol=1e-4, atol=0)  # the whole of it, not a half
    beyond = layer(C, [-1e-9, 1 + 1e-9, 0.3], k=3)
    beyond(X).square().sum().backward()
    assert beyond.lora_alpha.grad.ne(0).tolist() == [False, False, True]


def test_a_strength_of_one_takes_the_direction_out():
    live = layer(C, [1.0, 1.0, 1.0], k=3)
    Q = torch.linalg.qr(C).Q
    h = (live(X) - nn.functional.linear(X, live.weight - (live.lora_U * live.lora_S) @ live.lora_Vh, live.bias)) @ live.lora_U
    close((h @ Q).detach(), torch.zeros(5, 3, dtype=torch.float64))


def test_the_length_of_a_single_direction_does_not_matter_but_for_a_millionth():
    one, ten = (layer(size * C[:, :1] / C[:, :1].norm(), [0.8])(X).detach() for size in (1, 10))
    base = layer(C[:, :1], [0.0])(X).detach()
    ratio = float((one - base).norm() / (ten - base).norm())
    assert abs(ratio - ((1 + 1e-7) / (1 + 1e-6)) ** 2) < 1e-9  # twice: it stands on both sides


def test_a_direction_of_zeros_takes_nothing_out_and_has_gradients():
    live = layer(torch.zeros(4, 1), [0.8])
    base = layer(C[:, :1], [0.0])
    close(live(X), base(X))
    live(X).square().sum().backward()
    assert live.lora_c.grad.isfinite().all()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_directions_and_gradients_too(dtype, k):
    live, exact = (layer(C[:, :k].to(dtype), [0.75] * k, kind, k=k) for kind in (dtype, torch.float64))
    exact.load_state_dict({name: value.double() for name, value in live.state_dict().items()})
    y = live(X.to(dtype))
    y.square().sum().backward()
    assert y.dtype is live.lora_c.grad.dtype is dtype
    change = (y.double() - exact(X.to(dtype).double())).norm() / y.double().norm()
    assert change < 4 * torch.finfo(dtype).eps


def test_it_starts_with_a_twentieth_of_random_directions():
    torch.manual_seed(3)
    live = lite.attach(nn.Linear(120, 100), lite.AntiPaSTOAblateConfig(r=90, k=40))
    assert live.lora_alpha.tolist() == pytest.approx([0.05] * 40)
    assert abs(live.lora_c.std() * 90**0.5 - 1) < 0.05
    assert live.lora_c.mean().abs() * 90**0.5 < 0.05


def test_more_directions_than_components_are_refused():
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="antipasto_ablate on first: k = 5 directions, but only r = 4 components to have them in"):
        lite.attach(model, lite.AntiPaSTOAblateConfig(r=4, k=5))
    assert snapshot(model) == before
    lite.attach(model, lite.AntiPaSTOAblateConfig(r=4, k=4))


@pytest.mark.parametrize(
    ("orient", "data", "message"),
    [(True, None, "antipasto_ablate starts from data: pass"), (False, [inputs()], "antipasto_ablate uses none with these options")],
)
def test_data_orient_where_that_is_asked_for_and_only_there(orient, data, message):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        lite.attach(model, lite.AntiPaSTOAblateConfig(r=2, cov_orient=orient), data)
    assert snapshot(model) == before
