"""The data of methods that start from data: the same every time, masked where they say so, and able to tell bugs apart."""

import pytest
import torch

from refs import calibration, eva
from refs.calibration import GARBAGE, KINDS, batches, calls, model_inputs, pair
from refs.case import Case
from refs.problem import problem

CASE = Case(d_in=24, d_out=16, rank=4, alpha=6.0, weight="decay", data="padded")
ODD = [
    CASE,
    CASE.but(d_in=10, d_out=33, rank=3, weight="flat"),
    CASE.but(d_in=40, d_out=36, rank=20),
    CASE.but(seed=5),
    CASE.but(d_in=2, rank=2),
]


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_the_same_every_time_and_others_for_another_case(kind):
    case = CASE.but(data=kind)
    one = batches(case)
    calibration._cached.cache_clear()  # made again, not remembered
    again, other = batches(case), batches(case.but(seed=1))
    assert len(one) == {"one": 1, "several": 3, "padded": 2}[kind]
    for a, b, c in zip(one, again, other, strict=True):
        assert a.layer.equal(b.layer)
        assert a.beside.equal(b.beside)
        assert not a.layer.equal(c.layer)
        assert not a.beside.equal(c.beside)
    assert len({batch.layer.sum().item() for batch in one}) == len(one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "held"), [("float64", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_data_are_what_the_dtype_holds(kind, dtype, held):
    for batch in batches(CASE.but(data=kind, dtype=dtype)):
        for x in (batch.layer, batch.beside):
            assert x.dtype == torch.float64
            assert x.to(getattr(torch, held)).double().equal(x)


def test_an_unknown_kind_is_refused_and_the_known_are_listed():
    with pytest.raises(ValueError, match="unknown kind of data 'two'; known: one, several, padded"):
        batches(CASE.but(data="two"))


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.id)
@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_entry_that_counts_is_negative_in_every_call(case, kind):
    for x in calls(batches(case.but(data=kind)), labels=False)["layer"]:
        assert -x.min() > x.max() > 0


def test_masks_leave_out_padding_and_prompt_and_there_is_garbage_nowhere_else():
    data = batches(CASE)
    all_that_counts, trained = calls(data, labels=False), calls(data, labels=True)
    for n, batch in enumerate(data):
        keep = batch.attention
        assert batch.layer[~keep].abs().mean() > GARBAGE / 4
        assert batch.layer[keep].abs().max() < GARBAGE / 4
        assert sorted({int(row.sum()) for row in keep}, reverse=True) == [25, 12, 8]
        assert (batch.labels & keep).any(dim=1).all()
        assert (~batch.labels & keep).any()  # a prompt that a label mask alone leaves out
        assert all_that_counts["layer"][n].equal(batch.layer[keep])
        assert trained["layer"][n].equal(batch.layer[keep & batch.labels])
        assert trained["beside"][n].equal(batch.beside[keep & batch.labels])
    inputs = model_inputs(CASE.but(dtype="bfloat16"), data)
    assert [set(given) for given in inputs] == [{"x", "z", "attention_mask", "label_mask"}] * 2
    assert inputs[0]["x"].dtype == torch.bfloat16
    assert set(model_inputs(CASE, batches(CASE.but(data="one")))[0]) == {"x", "z"}


def test_the_data_have_a_mean_that_matters():
    x = torch.cat(calls(batches(CASE), labels=True)["layer"])
    centred, plain = (torch.linalg.svd(m, full_matrices=False).Vh[:4] for m in (x - x.mean(dim=0), x))
    assert torch.linalg.svdvals(centred @ plain.T).min() < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ODD[:4], ids=lambda case: case.id)
def test_the_pair_shares_its_ranks_out_unevenly(case, kind):
    case = case.but(data=kind, rank=min(case.rank, case.d_in // 2))
    layers = {name: eva.principal(torch.cat(x)) for name, x in calls(batches(case), labels=True).items()}
    shared = eva.ranks(case, layers)
    assert sum(shared.values()) == 2 * case.rank
    assert shared["layer"] > case.rank > shared["beside"]


def test_the_pair_runs_both_layers():
    numbers = problem(CASE, eva.FORMULA)
    model = pair(CASE, numbers.weight, numbers.bias)
    inputs = model_inputs(CASE, numbers.data)[0]
    y, z = model(inputs["x"], inputs["z"], inputs["attention_mask"])
    torch.testing.assert_close(y, inputs["x"] @ numbers.weight.T + numbers.bias)
    assert z.shape == inputs["z"].shape
