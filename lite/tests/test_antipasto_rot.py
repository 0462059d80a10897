"""What no test of all methods says of AntiPaSTO's rotation."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lite
from lite.tests.toys import inputs, net, snapshot

R = 16


def layer_of(dtype=torch.float64, shift=False, **options):
    """Turned as far as normal numbers turn it, without shifts unless they are asked for."""
    torch.manual_seed(0)
    layer = lite.attach(nn.Linear(20, 18, dtype=dtype), lite.AntiPaSTORotConfig(**{"r": R} | options))
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("lora_rot"):
                parameter.copy_(inputs(*parameter.shape, seed=len(name), dtype=dtype))
        if not shift:
            layer.lora_delta_s.zero_()
    return layer


def turned(layer):
    """The weight between the frozen factors (r, r)."""
    zero = layer(torch.zeros(20, dtype=torch.float64))
    adapted = (layer(torch.eye(20, dtype=torch.float64)) - zero).T
    return (layer.lora_U.T @ adapted @ layer.lora_Vh.T).detach()


def largest_angle(rotation):
    """Radians."""
    return float(torch.linalg.eigvals(rotation).angle().abs().max())


def near(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("most", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_the_clamp_is_on_entries_so_that_it_bounds_the_angle_in_blocks_of_two_only(size, most):
    layer = layer_of(block_size=size, max_rotation_angle=most)
    largest = 2 * math.atan(math.tan(most / 2) / math.tan(math.pi / 2 / size))  # the cotangent is 1 in blocks of two
    for T in (inputs(*layer.lora_rot_T.shape, seed=3).double().sign(), torch.ones_like(layer.lora_rot_T)):
        nn.init.zeros_(layer.lora_rot_T)
        with torch.no_grad():
            layer.lora_rot_T += 1e3 * T  # deep in the clamp
        angle = largest_angle(turned(layer) / layer.lora_S[:, None])
        assert angle <= largest * (1 + 1e-12)
    assert angle == pytest.approx(largest, rel=1e-12)
    assert (angle > most * 1.05) == (size > 2)


def test_the_headers_angles_are_those_of_the_default():
    said = "0.50, 1.11, 1.82 and 2.41 in blocks of 2, 4, 8 and 16"
    assert said in " ".join(sys.modules[lite.AntiPaSTORotConfig.__module__].__doc__.split())
    for angle, size in ((0.50, 2), (1.11, 4), (1.82, 8), (2.41, 16)):
        layer = layer_of(block_size=size)
        nn.init.constant_(layer.lora_rot_T, 1e3)
        assert largest_angle(turned(layer) / layer.lora_S[:, None]) == pytest.approx(angle, abs=0.006)


@pytest.mark.parametrize("basis", ["V", "U"])
@pytest.mark.parametrize("coeff", [1.0, 0.3, 4.0])
def test_one_side_is_turned_and_the_opposite_coefficient_turns_it_back(coeff, basis):
    layer = layer_of(rotate_basis=basis)
    S = layer.lora_S[:, None] if basis == "V" else layer.lora_S
    there, back = (turned(lite.steer(layer, c).model) / S for c in (coeff, -coeff))
    identity = torch.eye(R, dtype=torch.float64)
    near(there @ there.T, identity)
    near(there @ back, identity)
    assert (there - identity).norm() > 0.1
    blocks = torch.block_diag(*[torch.ones(4, 4)] * (R // 4)) > 0
    assert not (there - identity)[~blocks].abs().max() > 1e-12


def test_both_sides_turn_by_parameters_of_their_own():
    both, V, U = (layer_of(rotate_basis=basis) for basis in ("both", "V", "U"))
    assert not both.lora_rot_T.equal(both.lora_rot_T_u)
    with torch.no_grad():
        V.lora_rot_T.copy_(both.lora_rot_T)
        U.lora_rot_T.copy_(both.lora_rot_T_u)
    near(turned(both), (turned(U) / both.lora_S) @ turned(V))


def test_where_nothing_turns_there_is_nothing_to_turn_it_by():
    layer = layer_of(rotate_basis="none", shift=True, r=7)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["lora_delta_s"]
    near(turned(layer), (layer.lora_S + layer.lora_delta_s).diag())


def test_no_matrix_of_all_components_by_all_components_is_formed():
    seen = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.extend(tuple(t.shape) for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor))
            return out

    layer, x = layer_of(rotate_basis="both"), inputs(3, 20, dtype=torch.float64)
    with Shapes():
        layer(x).square().sum().backward()
    assert (4, 4, 4) in seen
    assert all(shape[-2:] != (R, R) for shape in seen)


def test_a_shift_and_a_turn_far_below_the_dtypes_resolution_are_felt():
    layer, x = layer_of(torch.bfloat16, shift=True), inputs(200, 20, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.lora_delta_s.mul_(1e-3)
        layer.lora_rot_T.mul_(1e-5)
        exact = lite.attach(nn.Linear(20, 18, bias=False, dtype=torch.float64), lite.AntiPaSTORotConfig(r=R))
        exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items() if name != "bias"})
        for each in (layer, exact):
            each.weight.zero_()  # which is where it would be lost
        nn.init.zeros_(layer.bias)
        change, truth = layer(x).double(), exact(x.double())
    assert 0 < truth.norm() < 1e-4 * x.double().norm()
    assert (change - truth).norm() < 0.02 * truth.norm()


def test_blocks_that_do_not_make_up_the_rank_are_refused_with_both_numbers():
    model = net()
    before = snapshot(model)
    for r, size in ((6, 4), (3, 4), (16, 5)):
        with pytest.raises(ValueError, match=f"blocks of block_size = {size} have to make up r, got r = {r}; set r to a multiple"):
            lite.attach(model, lite.AntiPaSTORotConfig(r=r, block_size=size))
    assert snapshot(model) == before
    assert lite.attach(model, lite.AntiPaSTORotConfig(r=4)).first.lora_rot_T.shape == (1, 6)


@pytest.mark.parametrize("size", [0, 1, -2, 2.0])
def test_a_size_without_blocks_is_told(size):
    with pytest.raises(ValueError, match=f"AntiPaSTORotConfig: block_size must be an integer of at least 2, got {size}"):
        lite.AntiPaSTORotConfig(block_size=size)


@pytest.mark.parametrize("value", [math.pi, 0.9e-30, -0.5])
def test_an_angle_without_a_tangent_is_told(value):
    with pytest.raises(
        ValueError, match="AntiPaSTORotConfig: max_rotation_angle must be a number between 1e-30 and π, π excluded, got"
    ):
        lite.AntiPaSTORotConfig(max_rotation_angle=value)


def test_the_smallest_angle_is_taken():
    assert lite.AntiPaSTORotConfig(max_rotation_angle=1e-30).max_rotation_angle == 1e-30
