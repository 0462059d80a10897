"""Subjects and runs: values in and out under canonical names, traces that own their tensors."""

import pytest
import torch
from torch import nn

from refs import lora
from refs.case import Case
from refs.closed_form import ClosedForm
from refs.maps import Entry
from refs.problem import problem
from refs.subject import Subject, run
from refs.threads import one_thread

CASE = Case(d_in=5, d_out=3, rank=2, alpha=3.0, batch=(2, 2))
NUMBERS = problem(CASE, lora.FORMULA)


class Foreign(nn.Module):
    """LoRA with A stored transposed and halved, an unused parameter, and dropout of its own."""

    def __init__(self):
        super().__init__()
        self.down = nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))
        self.up = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return x @ NUMBERS.weight.T + NUMBERS.bias + 1.5 * self.dropout(x) @ (2 * self.down) @ self.up.T


MAP = {
    "lora_A": Entry("down", transpose=True, factor=0.5),
    "lora_B": Entry("up"),
    "lora_idle": Entry("idle"),
    "lora_gone": Entry("gone"),
}
SHAPES = {"lora_A": (2, 5), "lora_B": (3, 2), "lora_idle": (4,), "lora_gone": (1,)}


def foreign(**more):
    module = Foreign()
    return Subject(module, module, MAP, dict(module.named_parameters()) | more, SHAPES)


def test_values_are_written_through_the_map_and_read_back():
    subject = foreign()
    subject.write(NUMBERS.parameters)
    assert subject.module.down.equal(NUMBERS.parameters["lora_A"].T / 2)
    for name, value in NUMBERS.parameters.items():
        assert subject.read(name).equal(value)
    subject.read("lora_B").zero_()
    assert subject.read("lora_B").equal(NUMBERS.parameters["lora_B"])


def test_a_run_through_a_map_is_the_same_trace():
    case = CASE.but(mode="eval")
    plain = run(ClosedForm(lora.FORMULA).build(CASE, NUMBERS), CASE, NUMBERS, NUMBERS.parameters)
    subject = foreign()
    assert run(subject, case, NUMBERS, NUMBERS.parameters).keys() == {"output", "grad.x"}
    subject.module.dropout.p = 0.0
    trace = run(subject, CASE, NUMBERS)  # the subject's own values, written above
    assert trace.keys() == plain.keys() == {"output", "grad.x", "grad.lora_A", "grad.lora_B"}
    for name, value in trace.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-13, atol=1e-14)


def test_dropout_is_seeded_by_the_case_and_the_mode_is_set():
    subject = foreign()
    one, again = (run(subject, CASE, NUMBERS, NUMBERS.parameters)["output"] for _ in range(2))
    other = run(subject, CASE.but(seed=1), NUMBERS)["output"]
    assert one.equal(again)
    assert not one.equal(other)
    assert subject.module.dropout.training
    quiet = run(subject, CASE.but(mode="eval"), NUMBERS)["output"]
    assert not subject.module.dropout.training
    assert not quiet.equal(one)


def test_a_trace_owns_its_tensors():
    subject = foreign()
    trace = run(subject, CASE, NUMBERS, NUMBERS.parameters)
    kept = {name: value.clone() for name, value in trace.items()}
    subject.module.float().double()
    subject.write({name: value * 0 for name, value in NUMBERS.parameters.items()})
    run(subject, CASE, NUMBERS)
    assert all(value.equal(kept[name]) for name, value in trace.items())
    assert not any(value.requires_grad for value in trace.values())


def test_a_trace_shares_no_memory_with_a_layer_that_reuses_its_output_or_with_the_problem():
    case = CASE.but(d_in=3, d_out=3)
    numbers = problem(case, lora.FORMULA)
    kept = numbers.cotangent.clone()

    class Reusing(nn.Module):
        """x + b: the gradient of x is the cotangent itself."""

        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in ((2, 3), (3, 2)))

        def forward(self, x):
            self.last = x + self.b.sum()
            return self.last

    module = Reusing()
    subject = Subject(
        module, module, {"lora_A": Entry("a"), "lora_B": Entry("b")}, dict(module.named_parameters()), SHAPES | {"lora_A": (2, 3)}
    )
    trace = run(subject, case, numbers)
    assert trace["output"].equal(numbers.x + 6)
    assert trace["grad.x"].equal(kept)
    module.last.detach().zero_()
    trace["grad.x"].zero_()
    assert trace["output"].equal(numbers.x + 6)
    assert numbers.cotangent.equal(kept)


def test_a_trainable_without_effect_has_a_gradient_of_zeros():
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in ((2, 5), (3, 2)))

        def forward(self, x):
            return x @ NUMBERS.weight.T + self.b.sum()

    module = Identity()
    subject = Subject(module, module, {"lora_A": Entry("a"), "lora_B": Entry("b")}, dict(module.named_parameters()), SHAPES)
    trace = run(subject, CASE, NUMBERS)
    assert trace["grad.lora_A"].equal(torch.zeros(2, 5, dtype=torch.float64))
    assert trace["grad.lora_B"].any()


def test_an_output_of_another_shape_is_the_whole_trace():
    subject = foreign()
    squeezed = Subject(subject.module, lambda x: subject.call(x)[0], MAP, subject.tensors, SHAPES)
    assert run(squeezed, CASE, NUMBERS).keys() == {"output"}


def test_names_that_are_not_there_are_refused_and_the_others_listed():
    with pytest.raises(KeyError, match="the map has no entry lora_m; it has lora_A, lora_B, lora_gone, lora_idle"):
        foreign()["lora_m"]
    with pytest.raises(KeyError, match="lora_gone is mapped to gone, which is not there; there are down, idle, up"):
        foreign()["lora_gone"]
    with pytest.raises(KeyError, match="lora_gone is mapped to gone"):
        foreign().read("lora_gone")


def test_a_value_of_another_shape_is_refused_with_both_sides():
    with pytest.raises(ValueError, match=r"lora_A should be written to down as \(4, 2\), it is \(5, 2\)"):
        foreign().write({"lora_A": torch.zeros(2, 4)})


def test_what_is_trained():
    subject = foreign(buffer=torch.zeros(3))
    subject.module.up.requires_grad_(False)
    assert subject.trainable == {"down", "idle"}


def test_runs_use_one_thread_and_put_the_number_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        subject = foreign()
        watched = Subject(
            subject.module, lambda x: (seen.append(torch.get_num_threads()), subject.call(x))[1], MAP, subject.tensors, SHAPES
        )
        run(watched, CASE, NUMBERS)
        assert seen == [1]
        assert torch.get_num_threads() == 2
        with pytest.raises(OSError, match="planted"), one_thread():
            raise OSError("planted")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
