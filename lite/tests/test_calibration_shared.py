"""Layers that receive one and the same tensor share what is kept of it, and count it once."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.test_calibration import each_from_data, same, statistics
from lite.tests.toys import all_bits, attach, inputs, snapshot

DATA = [inputs(4, 5, 6, seed=41), inputs(3, 7, 6, seed=42)]


class Heads(nn.Module):
    """Three projections of an input; `how` says what each batch gives to the second."""

    def __init__(self, *how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = nn.Linear(6, 5), nn.Linear(6, 4), nn.Linear(6, 3)
        self.how, self.batches = how or ("same",), 0

    def forward(self, x):
        """x (…, 6) → (…, 12)."""
        how = self.how[self.batches % len(self.how)]
        self.batches += 1
        if how == "k first":
            k, q = self.k(x), self.q(x)
            return torch.cat([q, k, self.v(x)], -1)
        q = self.q(x)
        if how == "in place":
            x.mul_(2)
        return torch.cat([q, self.k(x.clone() if how == "copy" else x), self.v(x)], -1)


class Alone(nn.Module):
    """One projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 5)

    def forward(self, x):
        """x (…, 6) → (…, 5)."""
        return self.q(x)


def fresh():
    return [x.clone() for x in DATA]


@each_from_data
def test_sharers_have_one_accumulator_that_counts_each_token_once(make):
    kept = statistics(Heads(), make(r=2), fresh())
    assert kept["q"] is kept["k"] is kept["v"]
    assert same({"q": kept["q"]}, statistics(Alone(), make(r=2), fresh()))


@each_from_data
def test_sharers_start_as_each_would_alone(make):
    model = lite.attach(Heads(), make(r=2, rho=1), fresh())
    for name in "qkv":
        alone = lite.attach(Heads(), make(r=2, rho=1, target_names=[name]), fresh())
        assert all_bits(getattr(model, name)) == all_bits(getattr(alone, name))


@each_from_data
@pytest.mark.parametrize("how", ["copy", "in place"])
def test_another_tensor_and_a_changed_one_are_not_shared(make, how):
    kept = statistics(Heads(how), make(r=2), fresh())
    assert kept["q"] is not kept["k"]
    assert same({"q": kept["q"]}, statistics(Alone(), make(r=2), fresh()))
    if how == "in place":
        assert same({"v": kept["v"]}, statistics(Alone(), make(r=2), [2 * x for x in DATA]))


def test_two_configs_do_not_share():
    model = Heads()
    attach(model, [lite.EVAConfig(r=2, target_names=["q"]), lite.EVAConfig(r=1, rho=1, target_names=["k"])], fresh())
    assert (model.q.lora_A.shape, model.k.lora_A.shape) == ((2, 6), (1, 6))
    attach(Heads(), [lite.EVAConfig(r=2, target_names=["q"]), lite.CorDAConfig(r=2, target_names=["k"])], fresh())


@each_from_data
@pytest.mark.parametrize("how", ["copy", "k first"])
def test_sharing_that_ends_is_a_clear_error(make, how):
    model = Heads("same", how)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"batch 2: k shared its input with q before, .* was called first; attach them by two"):
        lite.attach(model, make(r=2), fresh())
    model.batches = 0
    assert snapshot(model) == before
    attach(model, [make(r=2, target_names=["q", "v"]), make(r=1, target_names=["k"])], fresh())


@each_from_data
def test_sharing_that_begins_later_is_none(make):
    kept = statistics(Heads("copy", "same"), make(r=2), fresh())
    assert kept["q"] is not kept["k"]
    assert kept["q"] is kept["v"]
    alone = statistics(Alone(), make(r=2), fresh())["q"]
    assert same({"q": kept["q"], "k": kept["k"]}, {"q": alone, "k": alone})


@each_from_data
def test_who_keeps_an_account_of_its_own_does_not_part_others_that_share(make):
    kept = statistics(Heads("copy", "k first"), make(r=2), fresh())
    assert kept["q"] is kept["v"] is not kept["k"]
    alone = statistics(Alone(), make(r=2), fresh())["q"]
    assert same({"q": kept["q"], "k": kept["k"]}, {"q": alone, "k": alone})


class Twice(nn.Module):
    """One layer, called twice with one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x):
        """x (…, 6) → (…, 5)."""
        return self.layer(x) + self.layer(x)


@each_from_data
def test_a_layer_that_is_called_twice_counts_twice(make):
    kept = statistics(Twice(), make(r=2), fresh())["layer"]
    assert same({"": kept}, statistics(Alone(), make(r=2), [x for x in fresh() for _ in range(2)]))


@each_from_data
def test_data_made_in_inference_mode_is_data(make):
    with torch.inference_mode():
        data = [x + 0 for x in DATA]
    assert data[0].is_inference()
    kept, alone = statistics(Heads(), make(r=2), data), statistics(Alone(), make(r=2), fresh())
    assert all(same({"": kept[name]}, alone) for name in "qkv")
