"""Calibration runs the data through the undamaged model and leaves nothing behind: inputs, modes, hooks, memory."""

import collections

import pytest
import torch
from torch import nn

import lite
from lite.calibration import calibrate
from lite.moments import Moments
from lite.runtime import plan
from lite.tests.toys import FROM_DATA, Net, attach, bits, each, inputs, net, snapshot

DATA = [inputs(8, 3, 6, seed=21), inputs(5, 4, 6, seed=22)]
each_from_data = each(*FROM_DATA)


def statistics(model, config, data):
    """What the layers of a config received, without attaching anything."""
    return calibrate(model, [(adapter.asked, adapter.layer) for adapter in plan(model, [config])], data)


def same(one, other):
    """Whether two tables of statistics hold the same bits."""
    return [{k: bits(v) if isinstance(v, torch.Tensor) else v for k, v in vars(s).items()} for s in one.values()] == [
        {k: bits(v) if isinstance(v, torch.Tensor) else v for k, v in vars(s).items()} for s in other.values()
    ]


def seen_by(model, data):
    """The inputs of both layers of a plain Net in eval mode."""
    seen, model = {"first": [], "last": []}, model.eval()
    for name, inputs_of_layer in seen.items():
        model.get_submodule(name).register_forward_pre_hook(lambda m, args, kept=inputs_of_layer: kept.append(args[0].detach()))
    for batch in data:
        model(batch)
    return seen


@each_from_data
def test_the_layers_receive_what_those_of_the_plain_model_do(make):
    expected = {}
    for name, calls in seen_by(net(), DATA).items():
        layer = next(adapter.layer for adapter in plan(net(), [make(r=2)]) if adapter.layer.name == name)
        expected[name] = make.variant.statistics(make(r=2), layer)
        for x in calls:
            expected[name].update(x.reshape(-1, layer.d_in))
    assert same(statistics(net(), make(r=2), DATA), expected)


class Batch(collections.UserDict):
    """A mapping that is no dict, as tokenizers return."""


BATCHES = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x,),
    "list": lambda x: [x],
    "dict": lambda x: {"x": x},
    "other mapping": lambda x: Batch(x=x),
    "mapping with masks": lambda x: {"x": x, "attention_mask": torch.ones(x.shape[:2]), "label_mask": torch.ones(x.shape[:2])},
    "mapping with masks of None": lambda x: {"x": x, "attention_mask": None},
}


@each_from_data
@pytest.mark.parametrize("wrap", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("many", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_a_batch_is_a_tensor_a_tuple_or_a_mapping(make, wrap, many):
    expected = statistics(net(), make(r=2), DATA)
    assert same(statistics(net(), make(r=2), many(wrap(x) for x in DATA)), expected)


WRONG = {
    "one tensor": (DATA[0], TypeError, "should be an iterable of batches, got one Tensor; put it into a list"),
    "one mapping": ({"x": DATA[0]}, TypeError, "got one dict; put it into a list"),
    "text": ("data", TypeError, "got one str"),
    "a batch of text": ([DATA[0], "text"], TypeError, "batch 2 of calibration_data should be a tensor, .* got str"),
    "no iterable": (7, TypeError, "iterable"),
    "no batch": ([], ValueError, "calibration_data is empty: at least one batch"),
    "a spent generator": (iter(()), ValueError, "can be used once only"),
    "no token": ([DATA[0][:0]], ValueError, "first received no token in 1 batches"),
    "nan": ([DATA[0], DATA[1] * float("nan")], ValueError, "batch 2: first received values that are not finite"),
    "infinity": ([DATA[0] / 0], ValueError, "batch 1: first received values that are not finite"),
    "a batch of another width": ([DATA[0], inputs(4, 5)], ValueError, r"batch 2: first received \(4, 5\), should be \(…, 6\)"),
    "a batch of twice the width": ([inputs(4, 12)], ValueError, r"batch 1: first received \(4, 12\), should be \(…, 6\)"),
    "a batch with more arguments": ([(DATA[0], DATA[0])], TypeError, "takes 2 positional arguments but 3"),
    "a batch with an unknown name": ([{"input_ids": DATA[0]}], TypeError, "input_ids"),
}


@each_from_data
@pytest.mark.parametrize(("data", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_data_is_refused_and_leaves_no_trace(make, data, error, message):
    model = net()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        lite.attach(model, make(r=2), data)
    assert snapshot(model) == before


@each_from_data
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit], ids=lambda e: e.__name__)
@pytest.mark.parametrize("place", ["data", "model"])
def test_what_fails_in_a_batch_leaves_no_trace(make, error, place):
    def fail(*args):
        raise error("planted")

    model = net()
    if place == "model":
        model.norm.register_forward_pre_hook(fail)
    before = snapshot(model)
    with pytest.raises(error, match="planted"):
        lite.attach(model, make(r=2), (x if place == "model" or number == 0 else fail() for number, x in enumerate(DATA)))
    assert snapshot(model) == before


@each_from_data
def test_calibration_runs_in_eval_mode_without_gradients_and_puts_modes_back(make):
    class Watching(Net):
        def forward(self, x):
            seen.append(([module.training for module in self.modules()], torch.is_grad_enabled()))
            return super().forward(x)

    seen = []
    torch.manual_seed(0)
    model = Watching()
    modes = [module.training for module in model.modules()]
    assert modes == [True, True, False, True]
    attach(model, make(r=2), DATA)
    assert seen == [([False] * 4, False)] * 2
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert not any(module._forward_pre_hooks for module in model.modules())


@each_from_data
def test_streaming_equals_one_batch(make):
    whole, parts = inputs(40, 6, seed=23, dtype=torch.float64), net().double()
    one = statistics(parts, make(r=2), [whole])["first"]
    many = statistics(parts, make(r=2), whole.split([1, 2, 3, 14, 20]))["first"]
    if make.config is lite.EVAConfig:
        assert one.count == many.count == 40
        torch.testing.assert_close(one.mean, many.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(one.scatter, many.scatter, rtol=1e-13, atol=1e-13)
    elif make.config is lite.ASVDConfig:  # a sum over calls of their means
        calls = whole.abs().split([1, 2, 3, 14, 20])
        torch.testing.assert_close(many.sizes, sum(x.mean(dim=0) for x in calls), rtol=1e-13, atol=1e-13)
    elif isinstance(one, Moments):
        assert one.tokens == many.tokens == 40
        torch.testing.assert_close(one.sum, many.sum, rtol=1e-13, atol=1e-13)
    else:  # a mean over calls, each scaled by itself
        calls = [x / x.max().abs() for x in whole.split([1, 2, 3, 14, 20])]
        torch.testing.assert_close(many.sum, sum(x.T @ x for x in calls), rtol=1e-13, atol=1e-13)
        assert (one.calls, many.calls) == (1, 5)


@each_from_data
def test_memory_does_not_grow_with_the_data(make):
    def held(batches):
        return {
            layer: {name: value.untyped_storage().nbytes() for name, value in vars(kept).items() if isinstance(value, torch.Tensor)}
            for layer, kept in statistics(net(), make(r=2), (inputs(8, 3, 6, seed=n) for n in range(batches))).items()
        }

    assert held(1) == held(30)
    largest = 1 if make.config in (lite.ASVDConfig, lite.AntiPaSTOASVDConfig) else 2  # they keep a vector, the others a matrix
    assert all(max(sizes.values()) == 8 * d_in**largest for sizes, d_in in zip(held(1).values(), (6, 8), strict=True))
    kinds = [type(v) for kept in statistics(net(), make(r=2), DATA).values() for v in vars(kept).values()]
    assert set(kinds) <= {int, str, torch.Tensor, type(None)}


@each_from_data
def test_a_layer_that_is_not_used_is_named(make):
    model = net()
    model.head = nn.Linear(4, 2)
    before = snapshot(model)
    with pytest.raises(ValueError, match="head received no token in 2 batches: every one is masked, or the layer is not used"):
        lite.attach(model, make(r=2), DATA)
    assert snapshot(model) == before


def test_long_work_shows_a_bar_and_short_work_nothing(monkeypatch, capfd):
    attach(net(), lite.EVAConfig(r=2), DATA)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("lite.calibration.PROGRESS_AFTER", 0)
    monkeypatch.setattr("lite.runtime.PROGRESS_AFTER", 0)
    attach(net(), lite.EVAConfig(r=2), DATA)
    out, err = capfd.readouterr()
    assert out == ""
    assert "calibration: 100%" in err
    assert "2/2" in err
    assert "attach: 100%" in err


@each_from_data
def test_calibration_draws_nothing(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    model, data = net(), list(DATA)
    torch.manual_seed(5)
    lite.attach(model, make(r=2, dropout=0.5), data)
    assert torch.equal(torch.rand(3), expected)
