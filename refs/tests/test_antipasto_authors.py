"""What the divergences of AntiPaSTO's two authors' layers are made of: with the bias and the residual put right nothing is left of them.

And the size of what is a choice of AntiPaSTO: told on the page of the bugs found upstream.
"""

import pytest
import torch
from torch.nn.functional import elu, linear

from conformance.runs import at_values
from conformance.suite_of import suite_of
from conformance.suites.test_antipasto_rot import SUITE
from refs import antipasto_corda
from refs.antipasto_rot import FORMULA
from refs.authors import traces
from refs.calibration import batches, calls
from refs.closed_form import ClosedForm
from refs.problem import base, problem
from refs.subject import run

TORCH, JAX = SUITE.references[:2]
EXACT = ClosedForm(FORMULA)


def runs_of(layer):
    """Case, numbers, the author's trace and the formula's, for every float64 run on the case's own numbers."""
    found = []
    for one in traces.read(layer.recorded_file).runs:
        if one.case.dtype != "float64" or one.case.rank is None or one.case.weight.startswith("minilm:"):
            continue
        numbers = problem(one.case, FORMULA)
        if traces.nearly([one], one.case, traces.fingerprint(numbers)):
            found.append((one.case, numbers, one.tensors, at_values(EXACT, one.case, FORMULA)))
    assert len(found) > 20
    return found


def off(value, truth):
    return float((value - truth).norm() / truth.norm())


def test_what_the_torch_author_drops_is_the_bias_and_nothing_else():
    for case, numbers, told, exact in runs_of(TORCH):
        bias = 0 if numbers.bias is None else numbers.bias
        assert off(told["output"] + bias, exact["output"]) < 1e-14, case
        assert (off(told["output"], exact["output"]) > 0.05) == case.bias, case


def test_what_antipasto3_rounds_is_the_residual_and_nothing_else():
    left = []
    for case, numbers, told, exact in runs_of(JAX):
        W, (U, S, Vh) = numbers.weight.float(), (numbers.frozen[f"lora_{name}"].float() for name in ("U", "S", "Vh"))
        residual = W.T - Vh.T @ S.diag() @ U.T
        lost = (residual - residual.bfloat16().float()).T.double()
        bias = 0 if numbers.bias is None else numbers.bias
        before = off(told["output"] + bias, exact["output"])
        left.append(off(told["output"] + bias + linear(numbers.x, lost), exact["output"]))
        assert 1e-4 < before < 5e-3, case
        assert left[-1] < 0.1 * before, case  # a processor that adds in another order may round an entry the other way
    assert sorted(left)[len(left) // 2] < 1e-6


@pytest.mark.parametrize("layer", [TORCH, JAX], ids=lambda layer: layer.name)
def test_the_sign_of_the_map_is_told_by_the_traces(layer):
    """With T as it is, or with the transposed blocks, the gradients are others."""
    case, numbers, told, exact = next(r for r in runs_of(layer) if r[0].state == "perturbed" and "grad.lora_rot_T" in r[2])
    assert off(told["grad.lora_rot_T"], exact["grad.lora_rot_T"]) < 1e-6
    turned = numbers.parameters | {"lora_rot_T": -numbers.parameters["lora_rot_T"]}
    other = run(EXACT.build(case, numbers), case, numbers, turned | numbers.frozen)
    assert off(told["grad.lora_rot_T"], other["grad.lora_rot_T"]) > 1e-2
    assert off(-told["grad.lora_rot_T"], other["grad.lora_rot_T"]) > 1e-2
    assert torch.isfinite(other["output"]).all()


def test_the_form_of_antipasto_corda_is_not_that_of_corda():
    """W C^½ and C^−½ take another rank-r part of the weight than W C and C⁻¹, the best for these inputs."""
    case = next(case for case in suite_of("antipasto_corda").cases if case.data and not case.options)
    weight, data = base(case)[0], calls(batches(case), labels=False)
    own = antipasto_corda.frozen_from(case.but(options={"cov_eps": 1e-12}), weight, data)
    C, r = antipasto_corda.moments(data), case.rank
    U, S, Vh = torch.linalg.svd(weight @ C, full_matrices=False)
    mine, theirs = own["lora_U"] @ own["lora_S"].diag() @ own["lora_P"], U[:, :r] @ S[:r].diag() @ torch.linalg.solve(C, Vh[:r].T).T
    assert 0.2 < off(theirs, mine) < 0.5
    lost_by = [torch.linalg.norm((weight - part) @ torch.linalg.cholesky(C)) for part in (mine, theirs)]
    assert 0.85 < lost_by[0] / lost_by[1] < 0.97


def test_in_bfloat16_a_gain_that_is_formed_before_it_is_used_has_a_dead_zone():
    """1 + ELU(g) stays 1 until g is half a step of bfloat16 away, and S + δ stays S; the difference S·ELU(g) moves at once."""
    g, S = torch.tensor([-1.9e-3, 2e-3, 3.9e-3], dtype=torch.bfloat16), torch.tensor(0.7, dtype=torch.bfloat16)
    assert (1 + elu(g) == 1).all()
    assert (S * elu(g) != 0).all()
    assert S + 4e-4 == S
