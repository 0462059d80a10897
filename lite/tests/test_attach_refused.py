"""`attach` refuses before it touches anything, and what fails midway is undone."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import (
    CONFIGS,
    Coded,
    each_config,
    each_variant,
    inputs,
    net,
    snapshot,
)

FIRST = lite.LoRAConfig(r=2, target_names=["first"])


def disjoint(one=lite.LoRAConfig, other=lite.DeLoRAConfig):
    return [one(r=2, target_names=["first"]), other(r=3, target_names=["last"])]


@pytest.mark.parametrize(
    "second",
    [lite.LoRAConfig(r=2), lite.DoRAConfig(target_names=["irs"]), FIRST, lite.LoRAConfig(r=2, target_names=["first"])],
    ids=["wider", "another method", "the same object", "an equal config"],
)
def test_an_overlap_is_refused_with_both_configs(second):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="two configs target first") as error:
        lite.attach(model, [FIRST, second])
    assert repr(FIRST) in str(error.value)
    assert repr(second) in str(error.value)
    assert snapshot(model) == before


@pytest.mark.parametrize(
    "configs",
    [None, 3, "lora", lite.Config(), [FIRST, None], [lite.LoRAConfig], lite.LoRAConfig, {"r": 2}],
    ids=["None", "number", "text", "no method", "None inside", "class inside", "class", "options"],
)
def test_what_is_no_config_is_refused(configs):
    model = net()
    before = snapshot(model)
    with pytest.raises(TypeError):
        lite.attach(model, configs)
    assert snapshot(model) == before


@pytest.mark.parametrize("nothing", [[], (), {}], ids=str)
def test_no_config_at_all_is_refused(nothing):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="no config was given"):
        lite.attach(model, nothing)
    assert snapshot(model) == before


def test_the_known_configs_are_listed_for_an_unknown_one():
    with pytest.raises(TypeError, match="is not the config of a known variant; known: ") as error:
        lite.attach(net(), lite.Config())
    known = str(error.value).partition("known: ")[2].split(", ")
    assert sorted(known) == sorted(variant.config.__name__ for variant in lite.VARIANTS.values())


@each_variant
def test_calibration_data_is_refused_where_none_is_used(variant):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"calibration_data was given, but {variant} uses none"):
        lite.attach(model, CONFIGS[variant](), calibration_data=[inputs()])
    assert snapshot(model) == before


@each_config
@pytest.mark.parametrize("second", CONFIGS.values(), ids=CONFIGS)
def test_a_second_attach_is_refused_and_says_what_to_do(make, second):
    model = lite.attach(net(), make(target_names=["first"]))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"is attached already.*call lite\.detach first, or attach all configs at once"):
        lite.attach(model, second(target_names=["last"]))
    assert snapshot(model) == before


def test_attaching_to_the_parent_of_an_adapted_module_is_refused():
    model = net()
    lite.attach(model.first, lite.LoRAConfig())
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"lora is attached already \(to first\), delora cannot be added"):
        lite.attach(model, lite.DeLoRAConfig(target_names=["last"]))
    assert snapshot(model) == before


def test_attaching_to_an_adapted_layer_of_an_adapted_model_is_refused():
    model = lite.attach(net(), FIRST)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="to a model around this module"):
        lite.attach(model.first, lite.DeLoRAConfig())
    assert snapshot(model) == before


def test_attaching_to_another_part_of_an_adapted_model_is_refused():
    model = lite.attach(net(), FIRST)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="attached already"):
        lite.attach(model.last, lite.LoRAConfig())
    assert snapshot(model) == before


def test_a_layer_that_two_models_share_is_adapted_by_one():
    model = lite.attach(net(), FIRST)
    other = nn.Sequential(model.first)
    with pytest.raises(RuntimeError, match="lora is attached already"):
        lite.attach(other, lite.DoRAConfig())
    lite.attach(lite.detach(model), FIRST)


def test_a_layer_that_owns_such_a_name_is_refused():
    model = net()
    model.last.lora_B = nn.Parameter(torch.zeros(2))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="delora on last: the layer owns lora_B already"):
        lite.attach(model, disjoint())
    assert snapshot(model) == before


def test_nothing_to_detach_is_refused():
    model = net()
    before = snapshot(model)
    for adapted in (model, lite.detach(lite.attach(net(), FIRST))):
        with pytest.raises(RuntimeError, match=r"nothing is attached to this model; call lite\.attach first"):
            lite.detach(adapted)
    assert snapshot(model) == before


@pytest.mark.parametrize("configs", [disjoint(), [FIRST], disjoint(lite.DoRAConfig, lite.LoRAConfig)], ids=["two", "one", "dora"])
def test_the_second_config_failing_leaves_no_trace_of_the_first(configs):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="DoRAConfig matches no layer"):
        lite.attach(model, [*configs, lite.DoRAConfig(target_names=["nowhere"])])
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt], ids=lambda e: e.__name__)
@pytest.mark.parametrize(
    ("owner", "step", "call"),
    [
        (nn.init, "kaiming_uniform_", 2),
        (nn.Module, "register_parameter", 1),
        (nn.Module, "register_parameter", 4),
        (nn.Module, "register_buffer", 1),
        (nn.Module, "register_forward_hook", 1),
        (nn.Module, "register_forward_hook", 2),
    ],
    ids=lambda value: value if isinstance(value, str | int) else value.__name__,
)
def test_failing_midway_leaves_no_trace(monkeypatch, owner, step, call, error):
    model, real, calls = net(), getattr(owner, step), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise error("planted")
        return real(*args, **options)

    before = snapshot(model)
    monkeypatch.setattr(owner, step, failing)
    with pytest.raises(error, match="planted"):
        lite.attach(model, disjoint())
    monkeypatch.undo()
    assert len(calls) == call
    assert snapshot(model) == before
    assert snapshot(lite.detach(lite.attach(model, disjoint()))) == before


@each_config
def test_a_quantised_weight_is_refused_where_the_method_reads_it(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), Coded(5, 4, torch.int8))
    before = snapshot(model)
    if make is lite.LoRAConfig:
        lite.attach(model, make(r=2))
        assert snapshot(lite.detach(model)) == before
        return
    with pytest.raises(
        ValueError, match=r"on 1: .* dense floating-point \(4, 5\) matrix, but it is torch.int8 \(4, 5\); dequantise"
    ):
        lite.attach(model, make(r=2))
    assert snapshot(model) == before


@each_config
def test_a_weight_of_another_shape_than_the_layer_says_is_refused(make):
    model = nn.Sequential(nn.Linear(6, 5))
    model[0].out_features = 7
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"on 0: .*\(7, 6\).*\(5, 6\)"):
        lite.attach(model, make())
    assert snapshot(model) == before
