"""Attaching costs the adapter, for methods that replace weights one copy of these, and what one layer's start takes while it is computed.

Two blocks of Llama stand for all: what grows with their number would be seen in the second one.
"""

import gc

import pytest
import torch

import lite
from lite.tests.memory import llama
from lite.tests.toys import CONFIGS, RESIDUAL, each, inputs
from refs.counted import Counted

BILLION = (2048, 256, 5632)  # TinyLlama-1.1B's hidden, key and inner sizes
SMALL = (256, 32, 704)  # an eighth of these, for what decomposes exactly
THIN = ("lora", "dora", "delora", "ia3", "ia3_ff", "hra", "road")  # never make anything of a weight's size
MOMENTS = ("eva", "corda", "antipasto_corda")  # keep a matrix (d_in, d_in) in float64 for each distinct input of a layer
DECOMPOSED = ("pissa", "olora", "lora_xs", "antipasto_ablate")
EXCITED = ("antipasto", "antipasto_rot", "antipasto_dplr", "antipasto_arrow")  # with data keep every layer's whole basis
DIAGONAL = ("asvd", "antipasto_asvd")  # keep d_in numbers for each layer
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(scope="module")
def billion():
    """Two blocks of a model of a billion parameters."""
    return llama(*BILLION)


def beyond(model, make, data=None):
    """Bytes at the peak and at the end, beyond the adapter and one copy of the weights that are replaced."""
    config, weights = make(r=8, niter=2), sum(parameter.nbytes for parameter in model.parameters())
    gc.collect()
    with Counted(model) as counted:
        lite.attach(model, config, calibration_data=data)
        left = counted.live()
    adapter = sum(tensor.nbytes for name, tensor in model.state_dict(keep_vars=True).items() if ".lora_" in name)
    lite.detach(model)
    allowed = adapter + (weights if make.variant.residual else 0)
    assert left >= allowed > 0  # it was counted
    starts = adapter if make.variant.residual else 0  # what `save` writes beside the trained values
    return counted.peak - allowed, left - allowed - starts


def largest(model):
    """Bytes of the largest weight in float32: the dtype that starts are computed in."""
    return 4 * max(parameter.numel() for parameter in model.parameters())


@each(*THIN)
def test_thin_starts_on_a_billion_parameters(make, billion):
    peak, left = beyond(billion, make)
    assert left == 0
    assert peak < largest(billion) / 64


@each("pissa")
def test_a_residual_on_a_billion_parameters(make, billion):
    """The working set: the product that is taken out, and that product scaled."""
    peak, left = beyond(billion, make)
    assert left == 0
    assert peak < 2 * largest(billion)


@each_dtype
@each(*THIN)
def test_thin_starts(make, dtype):
    model = llama(*SMALL, dtype)
    peak, left = beyond(model, make)
    assert left == 0
    assert peak < largest(model) / 8  # thin tensors weigh eight times as much here


@each_dtype
@each(*DECOMPOSED, *EXCITED)
def test_decompositions(make, dtype):
    """The working set of one layer: its factors, or the product that is taken out; in half precision the weight in float32, too."""
    model = llama(*SMALL, dtype)
    peak, left = beyond(model, make)
    assert left == 0
    assert peak < (2 if dtype is torch.float32 else 3) * largest(model)


def batches():
    return [inputs(64, SMALL[0], seed=seed) for seed in range(2)]


def moments(d_in):
    """Bytes of Σ x xᵀ."""
    return 8 * d_in**2


@pytest.mark.parametrize(("make", "kept"), [(CONFIGS[name], 2 if name == "eva" else 1) for name in MOMENTS], ids=MOMENTS)
def test_second_moments(make, kept):
    """Each distinct input's moments, of EVA its directions too, and five times the largest while that layer is worked at."""
    hidden, _, inner = SMALL
    peak, _ = beyond(llama(*SMALL), make, batches())
    assert peak < 2 * kept * (2 * moments(hidden) + moments(inner)) + 5 * moments(inner)


@each(*EXCITED)
def test_bases_that_data_choose_from(make):
    """All singular vectors of every layer until the data have been seen, and what one layer's decomposition takes."""
    model = llama(*SMALL)
    bases = sum(4 * min(p.shape) * (sum(p.shape) + 1) for p in model.parameters())
    peak, _ = beyond(model, make, batches())
    assert peak < bases + 2 * largest(model)


@each(*DIAGONAL)
def test_diagonal_moments(make):
    """One layer's decomposition in float64: the weight, the weighted one and their factors."""
    model = llama(*SMALL)
    peak, _ = beyond(model, make, batches())
    assert peak < 3 * 2 * largest(model)


def test_every_method_is_measured():
    assert {*THIN, *MOMENTS, *DECOMPOSED, *EXCITED, *DIAGONAL} == set(CONFIGS)
    assert set(RESIDUAL) <= {*MOMENTS, *DECOMPOSED, *DIAGONAL}
