"""What no test of all methods says of AntiPaSTO's low-rank core."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import inputs, net, snapshot


def test_a_product_of_a_higher_rank_than_its_matrix_is_refused_with_both_numbers():
    model = net()
    before = snapshot(model)
    for options in ({"r": 4}, {"r": 4, "lora_rank": 5}, {"lora_rank": 17}):
        r, k = options.get("r", 16), options.get("lora_rank", 8)
        with pytest.raises(ValueError, match=f"lora_rank must be at most r, got lora_rank = {k} and r = {r}"):
            lite.attach(model, lite.AntiPaSTODPLRConfig(**options))
    assert snapshot(model) == before
    assert lite.attach(model, lite.AntiPaSTODPLRConfig(r=4, lora_rank=4)).first.lora_A.shape == (4, 4)


def test_a_alone_has_no_gradient_at_the_start():
    layer = lite.attach(nn.Linear(6, 5), lite.AntiPaSTODPLRConfig(r=4, lora_rank=3))
    layer(inputs(7, 6)).square().sum().backward()
    assert not layer.lora_A.grad.any()
    assert layer.lora_B.grad.all()
    assert layer.lora_g.grad.all()


def test_a_negative_coefficient_takes_the_product_back_and_no_more():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5, dtype=torch.float64), inputs(7, 6, dtype=torch.float64)
    y = layer(x)
    lite.attach(layer, lite.AntiPaSTODPLRConfig(r=4, lora_rank=3))
    nn.init.normal_(layer.lora_B)
    there = layer(x) - y
    with lite.steer(layer, -1):
        torch.testing.assert_close(layer(x) - y, -there, rtol=1e-12, atol=1e-13)
    assert there.norm() > 0.1 * y.norm()
