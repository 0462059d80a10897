"""Sizes of one, no tokens, ranks beyond the layer, norms at their clamp: each with what is expected there."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.formulas import formula
from lite.tests.toys import CONFIGS, SCALED, attach, each, each_config, each_variant, inputs, trainable, trained

SIZES = {  # d_in, d_out, r, shape of x without its last axis
    "d_in 1": (1, 4, 2, (3, 5)),
    "d_out 1": (6, 1, 2, (3, 5)),
    "d_in and d_out 1": (1, 1, 2, (3, 5)),
    "r 1": (6, 4, 1, (3, 5)),
    "everything 1": (1, 1, 1, (1,)),
    "x of one axis": (6, 4, 2, ()),
    "x of one axis and d_out 1": (6, 1, 1, ()),
    "x of five axes": (6, 4, 2, (2, 1, 3, 2)),
    "r above d_out": (6, 4, 5, (3, 5)),
    "r above d_in and d_out": (6, 4, 9, (3, 5)),
    "square": (5, 5, 2, (3, 5)),
}
MOST = {  # the largest rank; others take any
    lite.PiSSAConfig: min,
    lite.OLoRAConfig: min,
    lite.CorDAConfig: min,
    lite.ASVDConfig: min,
    lite.LoRAXSConfig: min,
    lite.EVAConfig: lambda d_in, d_out: d_in,
    lite.AntiPaSTOConfig: min,
    lite.AntiPaSTODPLRConfig: min,
    lite.AntiPaSTOArrowConfig: min,
    lite.AntiPaSTOCorDAConfig: min,
    lite.AntiPaSTOASVDConfig: min,
    lite.AntiPaSTOAblateConfig: min,
    lite.AntiPaSTORotConfig: min,
}
NO_TOKENS = {"no tokens": (0,), "no sequences": (0, 5), "sequences of no tokens": (3, 0)}


def layer_of(config, d_in=6, d_out=4, bias=True):
    torch.manual_seed(0)
    return trained(attach(nn.Linear(d_in, d_out, bias=bias, dtype=torch.float64), config))


def refusal(config, d_in, d_out):
    """What is said of a size that a method does not fit, or None."""
    if isinstance(config, lite.RoadConfig):
        size = config.group_size
        return f"group_size {size} has to divide d_out, which is {d_out}" if d_out % size else None
    if type(config) not in MOST:
        return None
    most = MOST[type(config)](d_in, d_out)
    return rf"r = {config.r}, but a.* has only {most} " if config.r > most else None


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@each_config
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("d_in", "d_out", "r", "shape"), SIZES.values(), ids=SIZES)
def test_the_formula_holds_at_every_size(d_in, d_out, r, shape, bias, make):
    config, x = make(r=r), inputs(*shape, d_in, dtype=torch.float64).requires_grad_()
    if message := refusal(config, d_in, d_out):
        with pytest.raises(ValueError, match=f"on the model itself: {message}"):
            layer_of(config, d_in, d_out, bias)
        return
    layer = layer_of(config, d_in, d_out, bias)
    y = layer(x)
    assert y.shape == (*shape, d_out)
    close(y, formula(config, layer, x))
    y.square().sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad.shape == p.shape and p.grad.isfinite().all() for p in trainable(layer).values())


@each_config
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", NO_TOKENS.values(), ids=NO_TOKENS)
def test_without_tokens_there_is_no_output_and_no_gradient(shape, training, make):
    layer, x = layer_of(make(r=2, dropout=0.5)).train(training), inputs(*shape, 6, dtype=torch.float64).requires_grad_()
    y = layer(x)
    assert y.shape == (*shape, 4)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(not p.grad.any() for p in trainable(layer).values())


@each(*SCALED)
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "alpha/√r"])
@pytest.mark.parametrize("alpha", [4, 1], ids=["alpha=r", "alpha=1"])
def test_the_formula_holds_at_a_scale_of_one_and_an_alpha_of_one(alpha, rslora, make):
    config, x = make(r=4, alpha=alpha, rslora=rslora), inputs(3, 6, dtype=torch.float64)
    layer = layer_of(config)
    close(layer(x), formula(config, layer, x))


@pytest.mark.parametrize("lambda0", [1e-6, 1e6], ids=str)
def test_deloras_strength_scales_the_update(lambda0):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, dtype=torch.float64), inputs(3, 6, dtype=torch.float64)
    y = layer(x)
    lite.attach(layer, lite.DeLoRAConfig(r=2, lambda0=lambda0))
    with torch.no_grad():
        layer.lora_B.copy_(inputs(4, 2, seed=3, dtype=torch.float64))
    close(layer(x), formula(lite.DeLoRAConfig(r=2), layer, x))
    with torch.no_grad():
        layer.lora_lambda.fill_(-lambda0)
    assert not torch.equal(layer(x), y)
    close(layer(x), formula(lite.DeLoRAConfig(r=2), layer, x))


def delora_with(factor, length):
    """A rank-1 DeLoRA whose a or b has a given length, and its output beyond the base's; a unit a or b has length 1."""
    layer = layer_of(lite.DeLoRAConfig(r=1))
    x = inputs(7, 6, dtype=torch.float64)
    with torch.no_grad():
        parameter = getattr(layer, factor)
        parameter.mul_(length / parameter.norm())
    return layer, layer(x) - nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("length", [1e-12, 0.5e-4, 0.9999e-4, 1e-4, 1.0001e-4, 1e-3, 30.0])
def test_a_norm_below_the_clamp_shrinks_the_update_and_one_above_does_not(factor, length):
    unit, update = delora_with(factor, 1.0)[1], delora_with(factor, length)[1]
    torch.testing.assert_close(update, min(length / 1e-4, 1.0) * unit, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("length", [0.5e-4, 0.99e-4, 1.01e-4, 2e-4])
def test_the_gradient_along_a_factor_stops_at_the_clamp(factor, length):
    layer, update = delora_with(factor, length)
    parameter = getattr(layer, factor)
    loss = (update * inputs(7, 4, seed=4, dtype=torch.float64)).sum()
    loss.backward()
    along = (parameter.grad * parameter.detach()).sum()
    torch.testing.assert_close(along, loss.detach() if length < 1e-4 else torch.zeros_like(loss), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_everything_is_finite_exactly_at_the_clamp_and_at_zero(factor):
    for value in (1e-4, 0.0):
        layer = layer_of(lite.DeLoRAConfig(r=2))
        with torch.no_grad():
            getattr(layer, factor).zero_()
            getattr(layer, factor).diagonal().fill_(value)
        x = inputs(7, 6, dtype=torch.float64).requires_grad_()
        y = layer(x)
        close(y, formula(lite.DeLoRAConfig(r=2), layer, x))
        y.square().sum().backward()
        assert all(tensor.grad.isfinite().all() for tensor in (x, *trainable(layer).values()))
        assert getattr(layer, factor).grad.any()


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_in_float16_the_clamped_norm_of_a_zero_factor_does_not_overflow(factor):
    layer, x = layer_of(lite.DeLoRAConfig(r=2)).half(), inputs(7, 6, dtype=torch.float16)
    with torch.no_grad():
        getattr(layer, factor).zero_()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_an_empty_row_of_the_weight_is_nan_under_dora_and_harms_no_other():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), inputs(7, 6)
    nn.init.zeros_(layer.weight[1])
    y = layer(x)
    lite.attach(layer, lite.DoRAConfig(r=2))
    out = layer(x)
    assert out[:, 1].isnan().all()
    assert torch.equal(out[:, [0, 2, 3]], y[:, [0, 2, 3]])


def test_an_empty_row_under_dora_is_the_bias_once_b_has_moved():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, dtype=torch.float64), inputs(7, 6, dtype=torch.float64)
    nn.init.zeros_(layer.weight[1])
    lite.attach(layer, lite.DoRAConfig(r=2))
    nn.init.ones_(layer.lora_B)
    close(layer(x), formula(lite.DoRAConfig(r=2), layer, x))
    close(layer(x)[:, 1], layer.bias[1].expand(7))


@each("lora", "delora", "ia3", "ia3_ff", "hra", "road")
def test_an_empty_row_or_column_harms_no_other(make):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, dtype=torch.float64), inputs(7, 6, dtype=torch.float64).requires_grad_()
    nn.init.zeros_(layer.weight[1])
    nn.init.zeros_(layer.weight[:, 2])
    trained(lite.attach(layer, make(r=2)))
    y = layer(x)
    close(y, formula(make(r=2), layer, x))
    y.square().sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *trainable(layer).values()))


@each_variant
@pytest.mark.parametrize("d_in", [1, 3])
@pytest.mark.parametrize("d_out", [1, 2, 4])
def test_the_smallest_layers_are_saved_and_loaded(variant, d_in, d_out, tmp_path):
    config, x = CONFIGS[variant](r=1, group_size=2), inputs(d_in, dtype=torch.float64)
    if message := refusal(config, d_in, d_out):
        with pytest.raises(ValueError, match=message):
            layer_of(config, d_in, d_out)
        return
    layer = layer_of(config, d_in, d_out)
    lite.save(layer, tmp_path / "file")
    torch.manual_seed(0)
    other = nn.Linear(d_in, d_out, dtype=torch.float64)
    y = other(x)
    assert torch.equal(lite.load(other, tmp_path / "file")(x), layer(x))
    assert torch.equal(layer(x), y) == (variant == "hra" and d_in == 1)  # an even number of signs
    assert torch.equal(lite.detach(layer)(x), y)
