"""What no test of all methods says of AntiPaSTO's arrow."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.formulas import formula
from lite.tests.toys import inputs, net, snapshot, trained


def test_a_block_that_leaves_no_gain_is_refused_with_both_numbers():
    model = net()
    before = snapshot(model)
    for options in ({"r": 4}, {"r": 4, "block": 4}, {"block": 16}, {"r": 1, "block": 1}):
        r, b = options.get("r", 16), options.get("block", 8)
        with pytest.raises(ValueError, match=f"block must be below r, got block = {b} and r = {r}"):
            lite.attach(model, lite.AntiPaSTOArrowConfig(**options))
    assert snapshot(model) == before
    layer = lite.attach(model, lite.AntiPaSTOArrowConfig(r=4, block=3)).first
    assert (layer.lora_M.shape, layer.lora_g.shape) == ((3, 3), (1,))


@pytest.mark.parametrize("coeff", [1.0, -0.6])
def test_the_formula_holds_where_block_and_gains_are_several(coeff):
    config, x = lite.AntiPaSTOArrowConfig(r=5, block=3, coeff=coeff), inputs(4, 6, dtype=torch.float64)
    torch.manual_seed(0)
    layer = trained(lite.attach(nn.Linear(6, 5, dtype=torch.float64), config))
    torch.testing.assert_close(layer(x), formula(config, layer, x), rtol=1e-12, atol=1e-13)


def test_the_block_is_that_of_the_largest_components_and_reaches_no_other():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, dtype=torch.float64)
    y = layer(x := torch.linalg.svd(layer.weight.detach(), full_matrices=False).Vh)
    lite.attach(layer, lite.AntiPaSTOArrowConfig(r=4, block=2))
    nn.init.ones_(layer.lora_M)
    change = layer(x) - y  # x are the singular vectors, one a row
    assert (change[:2].norm(dim=1) > 0.1).all()
    torch.testing.assert_close(change[2:], torch.zeros_like(change[2:]), rtol=0, atol=1e-14)
    nn.init.zeros_(layer.lora_M)
    nn.init.ones_(layer.lora_g)
    change = layer(x) - y
    assert (change[2:4].norm(dim=1) > 0.05).all()
    torch.testing.assert_close(change[[0, 1, 4]], torch.zeros_like(change[:3]), rtol=0, atol=1e-14)


def test_every_parameter_has_a_gradient_at_the_start():
    layer = lite.attach(nn.Linear(6, 5), lite.AntiPaSTOArrowConfig(r=4, block=2))
    layer(inputs(7, 6)).square().sum().backward()
    assert layer.lora_M.grad.all()
    assert layer.lora_g.grad.all()
