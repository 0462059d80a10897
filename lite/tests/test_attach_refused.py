"""`attach` refuses before it touches anything, and what fails midway is undone."""

import importlib

import pytest
import torch
from torch import nn

import lite
from lite.tests.toys import (
    CONFIGS,
    DRAWN,
    FROM_DATA,
    IN_FRONT,
    MAYBE_FROM_DATA,
    RESIDUAL,
    SELECTING,
    TRAINED,
    Coded,
    attach,
    each_config,
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


@pytest.mark.parametrize("variant", [name for name in CONFIGS if name not in MAYBE_FROM_DATA])
def test_calibration_data_is_refused_where_none_is_used_and_asked_for_where_it_is(variant):
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"{variant} starts from data: pass" if variant in FROM_DATA else f"{variant} uses none"):
        lite.attach(model, CONFIGS[variant](r=2), None if variant in FROM_DATA else [inputs()])
    assert snapshot(model) == before


@each_config
@pytest.mark.parametrize("second", [CONFIGS[name] for name in ("lora", "pissa", "eva", "hra")], ids=["lora", "pissa", "eva", "hra"])
def test_a_second_attach_is_refused_and_says_what_to_do(make, second):
    model = attach(net(), make(r=2, target_names=["first"]))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"is attached already.*call lite\.detach first, or attach all configs at once"):
        lite.attach(model, second(r=2, target_names=["last"]), [inputs()])
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


STEPS = {  # owner, name, which call of it fails
    "the second draw": (nn.init, "kaiming_uniform_", 2),
    "the first decomposition": (torch.linalg, "svd", 1),
    "the second decomposition": (torch.linalg, "svd", 2),
    "the second residual": ("lite.variants.pissa", "without", 2),
    "the first parameter": (nn.Module, "register_parameter", 1),
    "the second parameter": (nn.Module, "register_parameter", 2),
    "one of the last parameters": (nn.Module, "register_parameter", 4),
    "the first weight": ("lite.runtime", "replace_weight", 1),
    "the second weight": ("lite.runtime", "replace_weight", 2),
    "the first buffer": (nn.Module, "register_buffer", 1),
    "the first hook": (nn.Module, "register_forward_hook", 1),
    "the second hook": (nn.Module, "register_forward_hook", 2),
    "the first hook in front": (nn.Module, "register_forward_pre_hook", 1),
    "the second hook in front": (nn.Module, "register_forward_pre_hook", 2),
    "the first hook of calibration": (nn.Module, "register_forward_pre_hook", 1),
    "the second hook of calibration": (nn.Module, "register_forward_pre_hook", 2),
}
DECOMPOSES = {"pissa", "lora_xs", "corda", *SELECTING}
NOT_TAKEN = {  # by the last word of a step, the methods that do without
    "draw": set(CONFIGS) - set(DRAWN),
    "decomposition": set(CONFIGS) - DECOMPOSES,
    "residual": set(CONFIGS) - set(RESIDUAL),
    "weight": set(CONFIGS) - set(RESIDUAL),
    "parameters": {name for name, trained in TRAINED.items() if len(trained) == 1},
    "hook": set(IN_FRONT),
    "front": set(CONFIGS) - set(IN_FRONT),
    "buffer": set(CONFIGS) - {"delora", "lora_xs", *SELECTING},
    "calibration": set(CONFIGS) - {*FROM_DATA, *MAYBE_FROM_DATA},
}
TAKEN = [(v, step) for v in CONFIGS for step in STEPS if v not in NOT_TAKEN.get(step.split()[-1], set())]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=lambda e: e.__name__)
@pytest.mark.parametrize(("variant", "step"), [pytest.param(v, s, id=f"{v}-{s}") for v, s in TAKEN])
def test_failing_midway_leaves_no_trace(monkeypatch, variant, step, error):
    owner, name, call = STEPS[step]
    owner = importlib.import_module(owner) if isinstance(owner, str) else owner
    model, config, real, calls = net(), CONFIGS[variant](r=2), getattr(owner, name), []
    before, y = snapshot(model), model(inputs())

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise error("planted")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(error, match="planted"):
        attach(model, config)
    monkeypatch.undo()
    assert len(calls) >= call  # undoing calls some, too
    assert snapshot(model) == before
    assert torch.equal(model(inputs()), y)
    assert snapshot(lite.detach(attach(model, config))) == before


@each_config
def test_a_quantised_weight_is_refused_where_the_method_reads_it(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Coded(8, 4, torch.int8))
    before = snapshot(model)
    if not make.variant.reads_weight:
        attach(model, make(r=2))
        assert snapshot(lite.detach(model)) == before
        return
    with pytest.raises(
        ValueError, match=r"on 1: .* dense floating-point \(4, 8\) matrix, but it is torch.int8 \(4, 8\); dequantise"
    ):
        attach(model, make(r=2))
    assert snapshot(model) == before


def test_a_group_that_does_not_fit_is_refused():
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="road on first: group_size 64 has to divide d_out, which is 8; set group_size or exclude"):
        lite.attach(model, lite.RoadConfig())
    assert snapshot(model) == before


@each_config
def test_a_weight_of_another_shape_than_the_layer_says_is_refused(make):
    model = nn.Sequential(nn.Linear(6, 5))
    model[0].out_features = 7
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"on 0: in_features and out_features say \(7, 6\), the weight is \(5, 6\); exclude it"):
        attach(model, make(r=2))
    assert snapshot(model) == before
