"""The hook on every kind of linear-like layer, call and dtype; the result is the paper's formula."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import lite
from lite.tests.formulas import formula
from lite.tests.toys import CONFIGS, SCALED, Coded, OtherLinear, attach, each, each_config, inputs, trainable, trained


def conv1d() -> nn.Module:
    layer = Conv1D(4, 6)
    nn.init.normal_(layer.bias)
    return layer


KINDS = {
    "Linear": (lambda: nn.Linear(6, 4), "input"),
    "Linear without bias": (lambda: nn.Linear(6, 4, bias=False), "input"),
    "Conv1D": (conv1d, "x"),
    "own class": (lambda: OtherLinear(6, 4), "hidden"),
}
each_kind = pytest.mark.parametrize(("build", "keyword"), KINDS.values(), ids=KINDS)


def layer_of(build, config, dtype=torch.float64):
    torch.manual_seed(0)
    return trained(attach(build().to(dtype), config))


def as_linear(layer: nn.Module) -> nn.Linear:
    """The same base weight and adapters under an nn.Linear's names, for the formula."""
    twin = nn.Linear(6, 4, bias=layer.bias is not None, dtype=layer.weight.dtype)
    twin.weight.data = layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()
    twin.bias = layer.bias
    for name, value in layer.state_dict().items():
        if name.startswith("lora_"):
            twin.register_buffer(name, value)
    return twin


@each_config
@each_kind
def test_the_output_is_the_formulas(build, keyword, make):
    config, x = make(r=3), inputs(2, 3, 6, dtype=torch.float64)
    layer = layer_of(build, config)
    torch.testing.assert_close(layer(x), formula(config, as_linear(layer), x), rtol=1e-12, atol=1e-12)


@each(*SCALED)
@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/r", "alpha/√r"])
def test_alpha_is_divided_by_r_or_its_root(make, rslora):
    config, x = make(r=3, alpha=5.5, rslora=rslora), inputs(7, 6, dtype=torch.float64)
    layer = layer_of(lambda: nn.Linear(6, 4), config)
    torch.testing.assert_close(layer(x), formula(config, layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("group_size", [2, 4, 8], ids=str)
@pytest.mark.parametrize("road_variant", ["road_1", "road_2", "road_4"])
def test_roads_groups_and_angles_are_the_formulas(road_variant, group_size):
    config = lite.RoadConfig(road_variant=road_variant, group_size=group_size)
    layer, x = nn.Linear(6, 16).double(), inputs(7, 6, dtype=torch.float64)
    y = layer(x)
    assert torch.equal(lite.attach(layer, config)(x), y)
    trained(layer)
    torch.testing.assert_close(layer(x), formula(config, layer, x), rtol=1e-12, atol=1e-12)


@each_config
@each_kind
def test_a_call_by_keyword_is_a_call(build, keyword, make):
    x = inputs(2, 3, 6, dtype=torch.float64)
    layer = layer_of(build, make(r=3))
    y = layer(x)
    assert torch.equal(layer(**{keyword: x}), y)
    assert not torch.equal(lite.detach(layer)(**{keyword: x}), y)


@each_config
@each_kind
def test_every_kind_of_layer_is_restored(build, keyword, make):
    x = inputs(2, 3, 6, dtype=torch.float64)
    torch.manual_seed(0)
    y = build().double()(x)
    assert torch.equal(lite.detach(layer_of(build, make(r=3)))(x), y)


@each_config
@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float64),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
def test_adapters_compute_in_their_dtype_and_answer_in_the_bases(make, base, adapter):
    layer, x = layer_of(lambda: nn.Linear(6, 4), make(r=2, dtype=adapter), base), inputs(7, 6, dtype=base).requires_grad_()
    names = [name for name in layer.state_dict() if name.startswith("lora_")]
    assert {getattr(layer, name).dtype for name in names} == {adapter}
    y = layer(x)
    assert y.dtype is base
    expected = formula(make(r=2), layer, x)
    assert (y.double() - expected).norm() < 0.05 * expected.norm()
    y.double().square().sum().backward()
    assert x.grad.dtype is base
    assert {p.grad.dtype for p in layer.parameters() if p.requires_grad} == {adapter}


@each_config
@pytest.mark.parametrize(("base", "adapter"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)], ids=str)
def test_a_wider_adapter_adds_no_more_than_the_bases_rounding(make, base, adapter):
    layer, x = layer_of(lambda: nn.Linear(6, 4), make(r=2, dtype=adapter), base), inputs(7, 6, dtype=base)
    expected = copy.deepcopy(layer).double()(x.double())
    assert (layer(x).double() - expected).norm() < 4 * torch.finfo(base).eps * expected.norm()


def test_a_wider_adapter_keeps_what_the_base_dtype_would_lose():
    layer, x = nn.Linear(6, 4).bfloat16(), inputs(7, 6, dtype=torch.bfloat16)
    lite.attach(layer, lite.LoRAConfig(r=2, dtype=torch.float32))
    with torch.no_grad():
        layer.lora_A.fill_(1 + 2**-12)
    assert layer.lora_A.unique().tolist() == [1 + 2**-12]
    layer(x).sum().backward()
    assert not torch.equal(layer.lora_B.grad, layer.lora_B.grad.bfloat16().float())


@each_config
def test_autocast_decides_the_dtype_of_the_output(make):
    layer, x = layer_of(lambda: nn.Linear(6, 4), make(r=2), torch.float32), inputs(7, 6)
    y = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(x)
    assert cast.dtype is torch.bfloat16
    assert (cast.float() - y).norm() < 0.05 * y.norm()


@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn], ids=str)
@each(*(name for name, make in CONFIGS.items() if not make.variant.reads_weight))
def test_a_quantised_layer_is_adapted_by_methods_that_do_not_read_its_weight(make, codes):
    torch.manual_seed(0)
    layer, x = Coded(6, 4, codes), inputs(7, 6)
    y = layer(x)
    trained(attach(layer, make(r=2)))
    assert {parameter.dtype for parameter in trainable(layer).values()} == {torch.float32}
    assert not torch.equal(layer(x), y)
    layer(x).square().sum().backward()
    assert all(parameter.grad.any() for parameter in trainable(layer).values())
    assert torch.equal(lite.detach(layer)(x), y)


@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_lora_needs_no_more_than_the_outputs_of_a_quantised_layer(codes):
    torch.manual_seed(0)
    layer, x = Coded(6, 4, codes), inputs(7, 6)
    y = layer(x)
    lite.attach(layer, lite.LoRAConfig(r=3, alpha=6))
    assert torch.equal(layer(x), y)
    trained(layer)
    torch.testing.assert_close(layer(x), y + 2 * x @ layer.lora_A.T @ layer.lora_B.T)


@each_config
def test_a_dtype_without_arithmetic_is_refused(make):
    with pytest.raises(ValueError, match=f"{make.config.__name__}: dtype .*float8_e4m3fn"):
        make(dtype=torch.float8_e4m3fn)
