"""What a decomposition leaves free, where starts are kept, and how well they are determined."""

import pytest
import torch

from refs import antipasto_rot, eva, lora, lora_xs, pissa
from refs.case import Case
from refs.closed_form import ClosedForm, aligned, start_sensitivity
from refs.formula import Drawn
from refs.gauge import signs, turned
from refs.numbers import normal
from refs.problem import problem, start
from refs.subject import own_signs, run_at

CASE = Case(d_in=12, d_out=9, rank=3, alpha=6.0, weight="decay")
GAUGE = {"lora_A": (0,), "lora_B": (1,), "lora_R": (0, 1)}


def test_signs_are_told_by_the_first_tensor_and_turn_every_axis_named():
    A, B, R = normal("A", shape=(3, 5)), normal("B", shape=(4, 3)), normal("R", shape=(3, 3))
    flips = torch.tensor([1.0, -1.0, -1.0]).double()
    found = signs(GAUGE, flips[:, None] * A + 1e-3, A)
    assert found.equal(flips)
    assert turned(GAUGE, "lora_A", A, flips).equal(flips[:, None] * A)
    assert turned(GAUGE, "lora_B", B, flips).equal(B * flips)
    assert turned(GAUGE, "lora_R", R, flips).equal(flips[:, None] * R * flips)
    assert turned(GAUGE, "lora_b", B, flips) is B
    assert signs({"lora_B": (1,)}, B * flips, B).equal(flips)


def test_what_is_about_two_components_turns_with_either():
    case = CASE.but(rank=6, alpha=None, options={"block_size": 3})
    T, flips = normal("T", shape=(2, 3)), torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0]).double()
    own = turned(antipasto_rot.FORMULA.gauge, "lora_rot_T", T, flips)
    assert own.equal(T * torch.tensor([[-1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]]).double())
    R, other = (antipasto_rot.rotation(case, value) for value in (T, own))
    torch.testing.assert_close(other, flips[:, None] * R * flips, rtol=1e-13, atol=1e-14)
    assert turned(antipasto_rot.FORMULA.gauge, "lora_delta_s", flips, flips) is flips


def test_aligned_forgives_signs_that_cancel_and_nothing_else():
    own = pissa.FORMULA.begin(CASE, problem(CASE, pissa.FORMULA).weight).decomposed
    plain = aligned(pissa.FORMULA, own, own)
    assert {"B·A", "spectrum of lora_A", "spectrum of lora_B"} <= plain.keys()
    flips = torch.tensor([-1.0, 1.0, -1.0]).double()
    both = own | {"lora_A": flips[:, None] * own["lora_A"], "lora_B": own["lora_B"] * flips}
    assert all(value.equal(plain[name]) for name, value in aligned(pissa.FORMULA, both, own).items())
    one = aligned(pissa.FORMULA, own | {"lora_A": flips[:, None] * own["lora_A"]}, own)
    assert not one["B·A"].equal(plain["B·A"])
    swapped = own | {"lora_A": own["lora_A"][[1, 0, 2]]}
    assert not aligned(pissa.FORMULA, swapped, own)["lora_A"].equal(plain["lora_A"])


@pytest.mark.parametrize(
    "formula", [pissa.FORMULA, lora_xs.FORMULA, antipasto_rot.FORMULA], ids=["pissa", "lora_xs", "antipasto_rot"]
)
def test_in_the_state_own_a_subject_keeps_its_frozen_tensors_whatever_their_signs(formula):
    case = CASE.but(state="own", options={"block_size": 3} if formula is antipasto_rot.FORMULA else {})
    numbers = problem(case, formula)
    assert numbers.frozen == {}
    plain = run_at(ClosedForm(formula).build(case, numbers), case, numbers, formula)
    flips = torch.tensor([-1.0, 1.0, -1.0]).double()
    begin = formula.begin(case, numbers.weight)
    other = {name: turned(formula.gauge, name, value, flips) for name, value in begin.frozen.items()}
    first = {name: turned(formula.gauge, name, value, flips) for name, value in start(case, formula, numbers.weight).items()}
    subject = ClosedForm(formula).at(case, numbers, first, other)
    assert own_signs(subject, case, formula).equal(flips)
    trace = run_at(subject, case, numbers, formula)
    assert trace.keys() == plain.keys()
    for name, value in trace.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-12, atol=1e-13)
    given = problem(case.but(state="perturbed"), formula)
    copied = run_at(ClosedForm(formula).at(case, given, first, other), case.but(state="perturbed"), given, formula)
    torch.testing.assert_close(copied["output"], plain["output"], rtol=1e-12, atol=1e-13)


def test_a_beginning_is_computed_once_and_nobody_can_spoil_it():
    numbers = problem(CASE, pissa.FORMULA)
    begin = pissa.FORMULA.begin(CASE, numbers.weight)
    kept = {name: value.clone() for name, value in begin.decomposed.items()}
    for same in (CASE.but(mode="eval"), CASE.but(layer="conv1d"), CASE.but(state="own"), CASE.but(options={"dropout": 0.3})):
        assert pissa.FORMULA.begin(same, numbers.weight) is begin, same
    for other in (CASE.but(dtype="bfloat16"), CASE.but(options={"rslora": True}), CASE.but(rank=2), CASE.but(seed=1)):
        assert pissa.FORMULA.begin(other, numbers.weight) is not begin, other
    subject = ClosedForm(pissa.FORMULA).build(CASE, numbers)
    with torch.no_grad():
        for name in subject.map:
            subject[name].fill_(7.0)
        for value in start(CASE, pissa.FORMULA, numbers.weight).values():
            value.fill_(7.0)
    assert all(value.equal(kept[name]) for name, value in pissa.FORMULA.begin(CASE, numbers.weight).decomposed.items())


def test_other_data_give_another_beginning():
    case = CASE.but(data="one")
    weight = problem(case, eva.FORMULA).weight
    one = eva.FORMULA.begin(case, weight)
    assert eva.FORMULA.begin(case, weight) is one
    A = one.inits["lora_A"].value
    for data in ("several", "padded"):
        other = eva.FORMULA.begin(case.but(data=data), weight).inits["lora_A"].value
        assert A.shape != other.shape or (A - other).norm() > 1e-3 * A.norm()


def kappa(weight, **more):
    case = CASE.but(weight=weight, **more)
    return start_sensitivity(case, problem(case, pissa.FORMULA), pissa.FORMULA)


def test_a_start_is_sensitive_where_its_components_are_not_determined():
    apart, cluster, gap = kappa("decay"), kappa("flat"), kappa("gap")
    assert apart.keys() == {"lora_A", "lora_B", "residual", "B·A", "spectrum of lora_A", "spectrum of lora_B"}
    assert max(apart.values()) < 30
    assert min(cluster[name] for name in ("lora_A", "lora_B", "B·A")) > 1e4  # no gap: any directions will do
    assert gap["B·A"] < 30
    assert gap["spectrum of lora_A"] < 30
    assert cluster["spectrum of lora_A"] < 30


def test_an_orthogonal_start_is_drawn_with_the_spread_it_states_and_adds_nothing():
    case = Case(d_in=600, d_out=500, rank=8, alpha=6.0, options=(("init", "orthogonal"),))
    for init in (lora.init(case, torch.empty(500, 600)), lora.init(case.but(seed=1), torch.empty(500, 600))):
        A, B = init["lora_A"], init["lora_B"]
        assert isinstance(A, Drawn)
        assert (A.shape, B.shape) == ((8, 600), (500, 8))
        assert (B.value @ A.value).abs().max() < 1e-15
        for drawn in (A, B):
            assert drawn.value.square().mean().sqrt() == pytest.approx(drawn.std, rel=0.05)
    weight = problem(case, lora.FORMULA).weight
    one, other = (start(c, lora.FORMULA, weight)["lora_A"] for c in (case, case.but(seed=1)))
    assert not one.equal(other)


def test_a_tensor_of_the_first_components_takes_their_signs():
    flips, M = torch.tensor([1.0, -1.0, -1.0]).double(), normal("M", shape=(2, 2))
    assert turned({"lora_A": (0,), "lora_M": (0, 1)}, "lora_M", M, flips).equal(M * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
