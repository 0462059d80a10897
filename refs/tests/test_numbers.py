"""The generator is pinned: recorded values, keys, ranges, moments and spectra."""

import math

import numpy as np
import pytest
import torch

from refs.numbers import normal, signs, spectrum, uniform

# Recorded once. Another value here means that every recorded trace and every printed error belongs to other numbers.
UNIFORM = ["0x1.2b3fd3c4ad6a6p-2", "0x1.19e10b6f27b74p-2", "0x1.48262a8812a30p-5"]
NORMAL = ["-0x1.bb6dc0711560fp-1", "0x1.130feeef87262p-1", "-0x1.adefa19282313p-2"]
SIGNS = [-1, 1, 1, 1, -1, 1, -1, -1]


def hexed(tensor):
    return [value.hex() for value in tensor.tolist()]


def test_recorded_values():
    assert hexed(uniform("pin", 1, shape=(3,))) == UNIFORM
    assert hexed(normal("pin", 1, shape=(3,))) == NORMAL
    assert signs("pin", 1, shape=(8,)).tolist() == SIGNS


def test_a_recorded_matrix():
    expected = [[-0.41087221283898834, -0.911701062967675], [1.8206370790543862, -0.8278078417559922]]
    found = spectrum("pin", d_out=2, d_in=2, values=torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert (found - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-14


@pytest.mark.parametrize("shape", [(), (1,), (100,), (24, 16), (1000, 37), (2, 3, 24)])
def test_a_normal_number_is_a_sum_in_a_fixed_order(shape):
    a, b, c, d = uniform("order", shape=(4, *shape))
    assert normal("order", shape=shape).equal((((a + b) + c) + d - 2) * 3**0.5)


@pytest.mark.parametrize("draw", [uniform, normal, signs])
def test_dtype_and_shape(draw):
    for shape in [(), (1,), (0, 3), (2, 3), (2, 3, 4)]:
        tensor = draw("shape", shape=shape)
        assert tensor.shape == shape
        assert tensor.dtype == torch.float64


@pytest.mark.parametrize(
    "other", [("key", 2), ("key", 1.0), ("key", "1"), ("key", True), (1, "key"), ("key",), ("key", 1, 0), ("Key", 1)]
)
def test_another_key_gives_other_numbers(other):
    for draw in (uniform, normal):
        assert not (draw("key", 1, shape=(50,)) == draw(*other, shape=(50,))).any()
    assert not signs("key", 1, shape=(50,)).equal(signs(*other, shape=(50,)))


def test_a_key_is_a_row_of_values_not_their_text():
    assert not uniform("a", "b", shape=(9,)).equal(uniform("a', 'b", shape=(9,)))
    assert not uniform(12, 3, shape=(9,)).equal(uniform(1, 23, shape=(9,)))


def test_a_stream_is_read_in_order_whatever_the_shape():
    stream = uniform("key", shape=(24,))
    assert uniform("key", shape=(2, 3, 4)).flatten().equal(stream)
    assert uniform("key", shape=(7,)).equal(stream[:7])
    # A normal needs four numbers, taken a whole tensor apart: another size is another tensor.
    assert not (normal("key", shape=(24,))[:7] == normal("key", shape=(7,))).any()


def test_numbers_neither_follow_nor_move_the_global_generators():
    torch.manual_seed(1)
    np.random.seed(1)
    before = uniform("key", shape=(5,))
    torch.manual_seed(2)
    np.random.seed(2)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert uniform("key", shape=(5,)).equal(before)
    assert torch.get_rng_state().equal(state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_uniform_fills_the_half_open_unit_interval_evenly():
    values = uniform("many", shape=(64_000,))
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=64, min=0, max=1)
    squared = float(((counts - 1000).square() / 1000).sum())  # χ² with 63 degrees of freedom
    assert 20 < squared < 130
    assert len(set(values.tolist())) == 64_000
    assert (values * 2**53 == (values * 2**53).round()).all()


def test_uniform_uses_all_53_bits():
    bits = (uniform("bits", shape=(4000,)) * 2**53).to(torch.int64)
    for place in range(53):
        share = float(((bits >> place) & 1).double().mean())
        assert 0.45 < share < 0.55, place


def test_normal_has_mean_0_variance_1_and_no_outliers():
    values = normal("many", shape=(40_000,))
    assert abs(float(values.mean())) < 5 / math.sqrt(40_000)
    assert abs(float(values.var()) - 1) < 5 * math.sqrt(1.7 / 40_000)
    assert 3 < float(values.abs().max()) < 2 * math.sqrt(3)
    assert abs(float((values**3).mean())) < 0.05


def test_neighbours_are_not_correlated():
    values = normal("grid", shape=(200, 200))
    for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
        assert abs(float((one * other).mean())) < 0.025


def test_signs_are_plus_or_minus_one_with_equal_chance():
    values = signs("many", shape=(10_000,))
    assert set(values.tolist()) == {-1.0, 1.0}
    assert abs(float(values.mean())) < 0.05


SHAPES = [(5, 3), (3, 5), (6, 6), (1, 4), (4, 1), (1, 1), (33, 10), (2, 40)]


@pytest.mark.parametrize(("d_out", "d_in"), SHAPES)
def test_spectrum_has_the_requested_singular_values(d_out, d_in):
    values = torch.linspace(3, 0.5, min(d_out, d_in), dtype=torch.float64)
    matrix = spectrum("s", d_out=d_out, d_in=d_in, values=values)
    assert matrix.shape == (d_out, d_in)
    assert matrix.dtype == torch.float64
    assert (torch.linalg.svdvals(matrix) - values).abs().max() <= 1e-12


def test_spectrum_with_fewer_values_and_repeated_and_zero_ones():
    for values in ([2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0]):
        found = torch.linalg.svdvals(spectrum("s", d_out=7, d_in=4, values=torch.tensor(values, dtype=torch.float64)))
        wanted = torch.tensor(values + [0.0] * (4 - len(values)), dtype=torch.float64)
        assert (found - wanted).abs().max() <= 1e-12


def test_spectrum_depends_on_its_key_and_not_only_on_its_values():
    values = torch.tensor([2.0, 1.0], dtype=torch.float64)
    one, other = (spectrum(key, d_out=5, d_in=4, values=values) for key in ("one", "other"))
    assert (one - other).norm() > 0.5


def test_a_square_spectrum_has_two_different_bases():
    matrix = spectrum("s", d_out=6, d_in=6, values=torch.linspace(3, 0.5, 6, dtype=torch.float64))
    assert (matrix - matrix.T).norm() > 0.1 * matrix.norm()


def test_a_square_spectrum_of_equal_values_is_no_identity():
    matrix = spectrum("s", d_out=6, d_in=6, values=torch.ones(6, dtype=torch.float64))
    assert (matrix - torch.eye(6, dtype=torch.float64)).norm() > 0.1
