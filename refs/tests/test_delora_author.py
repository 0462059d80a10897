"""What DeLoRA's author's frozen copies do when they are copies, and when they share the memory of what is trained."""

import torch
from torch.nn.functional import linear

from refs import delora
from refs.authors import traces
from refs.authors.layer import VECTORS
from refs.problem import problem

ROUNDING = {"float64": 1e-14, "float32": 1e-5}  # the base's own product on another machine


def moves(name):
    """How far each recorded output is from the base layer's, by its case; and λ's gradients."""
    found = {}
    for run in traces.read(VECTORS / f"{name}.safetensors").runs:
        case = run.case
        exact = [problem(case.but(dtype=dtype), delora.FORMULA) for dtype in dict.fromkeys((case.dtype, "float32"))]
        numbers = next((one for one in exact if traces.nearly([run], case, traces.fingerprint(one))), None)
        if numbers is not None:
            plain = linear(numbers.x, numbers.weight, numbers.bias)
            found[case, run.digest] = float((run.tensors["output"].double() - plain).norm() / plain.norm()), run.tensors
    return found


def test_the_aliased_layer_adds_nothing():
    seen = moves("delora_aliased")
    assert len(seen) > 50
    for (case, _), (moved, tensors) in seen.items():
        assert moved < ROUNDING[case.dtype], case.id
        if case.mode == "train":
            assert not tensors["grad.lora_lambda"].any(), case.id
            assert tensors["grad.lora_A"].any(), case.id


def test_with_copies_it_adds_something():
    seen = moves("delora")
    assert len(seen) > 50
    assert all(moved > 0.1 for moved, _ in seen.values())


def test_at_its_own_init_either_is_the_base_layer():
    for name in ("delora", "delora_aliased"):
        for (case, _), (_, tensors) in moves(name).items():
            if case.state == "init":
                numbers = problem(case, delora.FORMULA)
                plain = linear(numbers.x, numbers.weight, numbers.bias)
                torch.testing.assert_close(tensors["own.output"].double(), plain, rtol=1e-5, atol=1e-5)
                assert not tensors["own.grad.lora_lambda"].any()
                assert tensors["own.grad.lora_A"].any()
                assert tensors["own.grad.lora_B"].any()
