"""Gradients against finite differences, in float64, at parameters that have moved."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import lite
from lite.tests.test_forward import conv1d
from lite.tests.toys import CONFIGS, DROPPING, inputs, trainable, trained

# DoRA holds its norm constant, so that its gradients by A and B are not those of the function.
BY = {
    "lora": (CONFIGS["lora"], ["lora_A", "lora_B"]),
    "dora": (CONFIGS["dora"], ["lora_m"]),
    "delora": (CONFIGS["delora"], ["lora_A", "lora_B", "lora_lambda"]),
    "lora_xs": (CONFIGS["lora_xs"], ["lora_R"]),
    "pissa": (partial(CONFIGS["pissa"], alpha=3, lora_bias=True), ["lora_A", "lora_B", "lora_b"]),
    "ia3": (CONFIGS["ia3"], ["lora_g"]),
    "ia3_ff": (CONFIGS["ia3_ff"], ["lora_g"]),
    "hra": (CONFIGS["hra"], ["lora_U"]),
    "antipasto": (CONFIGS["antipasto"], ["lora_g"]),
    "antipasto_dplr": (partial(CONFIGS["antipasto_dplr"], coeff=-0.7), ["lora_g", "lora_A", "lora_B"]),
    "antipasto_arrow": (partial(CONFIGS["antipasto_arrow"], coeff=-0.7), ["lora_M", "lora_g"]),
    "antipasto_rot": (partial(CONFIGS["antipasto_rot"], coeff=-0.7), ["lora_delta_s", "lora_rot_T"]),
    "antipasto_rot U": (partial(CONFIGS["antipasto_rot"], rotate_basis="U"), ["lora_delta_s", "lora_rot_T"]),
    "antipasto_rot both": (partial(CONFIGS["antipasto_rot"], rotate_basis="both"), ["lora_delta_s", "lora_rot_T", "lora_rot_T_u"]),
    "road_1": (CONFIGS["road"], ["lora_theta", "lora_alpha"]),
    "road_2": (partial(CONFIGS["road"], road_variant="road_2"), ["lora_theta", "lora_alpha"]),
    "road_4": (partial(CONFIGS["road"], road_variant="road_4", group_size=2), ["lora_theta", "lora_alpha"]),
}
BUILDS = {
    "Linear": lambda: nn.Linear(6, 4),
    "Linear without bias": lambda: nn.Linear(6, 4, bias=False),
    "Conv1D": conv1d,
}
CASES = [
    pytest.param(make, names, dropout, build, id=f"{name}-{kind}-dropout={dropout}")
    for name, (make, names) in BY.items()
    for kind, build in BUILDS.items()
    for dropout in ([0.0, 0.5] if name in DROPPING and kind == "Linear" else [0.0])
]


def layer_of(config, build=BUILDS["Linear"]):
    torch.manual_seed(0)
    return trained(lite.attach(build().double(), config))


@pytest.mark.parametrize(("make", "names", "dropout", "build"), CASES)
def test_gradients_are_those_of_finite_differences(make, names, dropout, build):
    layer = layer_of(make(r=2, dropout=dropout), build).train()

    def output(x, *values):
        torch.manual_seed(5)  # the same elements dropped in every call
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = inputs(2, 6, dtype=torch.float64).requires_grad_()
    assert gradcheck(output, (x, *(getattr(layer, name) for name in names)))


def test_the_parameters_that_are_left_out_are_doras_factors_alone():
    left_out = {name: sorted(set(trainable(layer_of(make(r=2)))) - set(names)) for name, (make, names) in BY.items()}
    assert left_out == {name: [] for name in BY} | {"dora": ["lora_A", "lora_B"]}


def test_doras_factors_get_the_gradient_with_the_norm_held_constant():
    layer, x = layer_of(lite.DoRAConfig(r=2, alpha=3)), inputs(5, 6, dtype=torch.float64)
    cotangent = inputs(5, 4, seed=3, dtype=torch.float64)
    (layer(x) * cotangent).sum().backward()
    A, B, m = (parameter.detach() for parameter in trainable(layer).values())
    s = 1.5
    gain = m / (layer.weight + s * B @ A).norm(dim=1)
    torch.testing.assert_close(layer.lora_B.grad, s * (cotangent * gain).T @ (x @ A.T), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer.lora_A.grad, s * (cotangent * gain @ B).T @ x, rtol=1e-11, atol=1e-11)
