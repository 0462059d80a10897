"""Many models and many cycles in one process: none sees another, and nothing is left of any."""

import gc
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lite
from lite.tests.toys import (
    CONFIGS,
    adapted,
    alive,
    all_bits,
    attach,
    bits,
    calibration,
    each,
    inputs,
    net,
    snapshot,
    trainable,
)

CYCLES = 1000
NAMES = list(CONFIGS)
PAIRS = [(name, NAMES[(i + 3) % len(NAMES)]) for i, name in enumerate(NAMES)]
STATM = Path("/proc/self/statm")


def trace(model, x):
    """The bits of the output and of all gradients."""
    given = [x.clone().requires_grad_(), *trainable(model).values()]
    y = model(given[0])
    return [bits(y), *map(bits, torch.autograd.grad(y.square().sum(), given))]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_models_do_not_see_each_other(one, other):
    x = inputs()
    alone = {name: trace(adapted(CONFIGS[name](r=2)), x) for name in (one, other)}
    first, second, base = (net() for _ in range(3))
    before = snapshot(base)
    torch.manual_seed(0)
    attach(first, CONFIGS[one](r=2))
    attach(second, CONFIGS[other](r=2))
    first.load_state_dict(adapted(CONFIGS[one](r=2)).state_dict())
    second.load_state_dict(adapted(CONFIGS[other](r=2)).state_dict())
    assert snapshot(base) == before
    assert [trace(first, x), trace(second, x)] == [alone[one], alone[other]]
    lite.detach(first)
    assert trace(second, x) == alone[other]
    assert all_bits(first) == all_bits(base)


@each("lora", "pissa", "hra", "antipasto_rot", "eva")
def test_training_in_turn_is_training_alone(make):
    def steps(model):
        optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            model(inputs(3, 6, seed=seed)).square().sum().backward()
            optimizer.step()
            yield all_bits(model)

    def models():
        return adapted(make(r=2)), adapted(lite.DoRAConfig(r=3))

    alone = [list(steps(model)) for model in models()]
    in_turn = list(zip(*map(steps, models()), strict=True))
    assert in_turn == list(zip(*alone, strict=True))


def tensors():
    """How many tensors Python holds."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_a_thousand_cycles_of_all_methods_leave_nothing():
    """In their second half a pointer that is left a cycle would be 4,000 bytes; where nothing is, Python's free lists move by less than 1,300."""
    model, x = net(), inputs()
    configs, data = [make(r=2) for make in CONFIGS.values()], calibration(model)
    parts = alive(model)

    def cycles(number):
        for n in range(number):
            attach(model, configs[n % len(configs)], data)
            model(x).square().sum().backward()
            lite.detach(model)

    cycles(2 * len(configs))  # what is imported and cached at a first call
    with torch.no_grad():
        y = model(x)
    before, there = snapshot(model), tensors()
    assert alive(model) == parts
    tracemalloc.start()
    cycles(CYCLES // 2)
    gc.collect()
    half = tracemalloc.get_traced_memory()[0]
    cycles(CYCLES // 2)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - half
    tracemalloc.stop()
    assert snapshot(model) == before
    assert tensors() <= there
    with torch.no_grad():
        assert torch.equal(model(x), y)
    assert grown < 8 * CYCLES // 2


@pytest.mark.skipif(not STATM.exists(), reason="the resident size is told by Linux alone")
@each("lora", "ia3", "pissa")
def test_a_thousand_cycles_do_not_grow_the_process(make):
    """Memory that only C++ holds. One vector left a cycle would be 16 MiB; ten cycles that leak nothing move the resident size by less than 1."""
    model, config = nn.Sequential(nn.Linear(4096, 16)), make(r=2, niter=1)

    def resident():
        return int(STATM.read_text().split()[1]) * 4096

    def cycles(number):
        for _ in range(number):
            attach(model, config)
            model(torch.ones(1, 4096)).sum().backward()
            lite.detach(model)

    cycles(50)
    before = resident()
    cycles(CYCLES)
    assert resident() - before < 4 * 2**20
