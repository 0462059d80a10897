"""What the two HRA layers for LLaMA compute: the method on the transposed weight, with vectors of their own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from refs import hra
from refs.authors import layer, traces
from refs.problem import problem

EPS = 6e-5  # the layer's default


def shortened(U: Tensor) -> Tensor:
    """Rows as `hra_llama_eps` uses them: they leave reflections that are not quite orthogonal."""
    return U / (U.square().sum(dim=1, keepdim=True) + EPS).sqrt()


def orthogonal(U: Tensor) -> Tensor:
    """Rows as `hra_llama_gs` uses them, up to their sign."""
    return torch.linalg.qr(U.T).Q.T


@pytest.mark.parametrize(("name", "rows"), [("hra_llama_eps", shortened), ("hra_llama_gs", orthogonal)])
def test_the_output_is_reflected(name: str, rows: Callable[[Tensor], Tensor]) -> None:
    recorded = traces.read(layer.VECTORS / f"{name}.safetensors").runs
    cases = dict.fromkeys(run.case for run in recorded if "minilm" not in run.case.weight and run.case.dtype == "float64")
    compared = 0
    for case in cases:
        given = problem(case, hra.FORMULA)
        if (run := traces.nearly(recorded, case, traces.fingerprint(given))) is None:
            continue
        turned = given.weight.T
        for row in rows(given.parameters["lora_U"]):
            turned = turned - 2 * (turned @ row)[:, None] * row
        expected = given.x @ turned + (0 if given.bias is None else given.bias)
        assert (run.tensors["output"] - expected).norm() <= 1e-13 * expected.norm(), case
        compared += 1
    assert compared >= 2
