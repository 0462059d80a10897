"""Base layers hold exactly the given numbers, whatever their kind."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from refs.bases import INPUT_NAMES, base_layer
from refs.case import Case
from refs.numbers import normal

CASE = Case(d_in=4, d_out=3, dtype="float64")
WEIGHT, BIAS, X = normal("weight", shape=(3, 4)), normal("bias", shape=(3,)), normal("x", shape=(2, 4))


@pytest.mark.parametrize(("kind", "type_"), [("linear", nn.Linear), ("conv1d", Conv1D), ("other", nn.Module)])
def test_every_kind_is_the_same_function_of_the_given_numbers(kind, type_):
    layer = base_layer(CASE.but(layer=kind), WEIGHT, BIAS)
    assert isinstance(layer, type_)
    assert isinstance(layer, nn.Linear) is (kind == "linear")
    expected = [[sum(X[t, j] * WEIGHT[i, j] for j in range(4)) + BIAS[i] for i in range(3)] for t in range(2)]
    torch.testing.assert_close(layer(**{INPUT_NAMES[kind]: X}), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer.weight.is_contiguous()


@pytest.mark.parametrize("kind", INPUT_NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_layer_owns_its_tensors_in_the_case_s_dtype(kind, dtype):
    weight, bias = WEIGHT.clone(), BIAS.clone()
    layer = base_layer(CASE.but(layer=kind, dtype=dtype), weight, bias)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert weight.equal(WEIGHT)
    assert bias.equal(BIAS)
    assert {p.dtype for p in layer.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("kind", ["linear", "other"])
def test_without_a_bias_there_is_none(kind):
    assert base_layer(CASE.but(layer=kind, bias=False), WEIGHT, None).bias is None


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="unknown layer kind 'lstm'; known: linear, conv1d, other"):
        base_layer(CASE.but(layer="lstm"), WEIGHT, BIAS)
    with pytest.raises(ValueError, match="Conv1D always has a bias"):
        base_layer(CASE.but(layer="conv1d", bias=False), WEIGHT, None)
