"""The reference `peft`: its layers under checkpoint names, in the asked dtype, at their own seeded init."""

import math

import peft
import pytest
import torch
from torch import nn

from refs import delora, dora, hra, ia3, ia3_ff, lora, road
from refs.case import Case
from refs.problem import problem
from refs.subject import run

# Written out by hand: the references know nothing of lite, which declares the same.
LORA = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
DORA = LORA | {"lora_m": "lora_magnitude_vector"}
DELORA = {
    "lora_A": "delora_A",
    "lora_B": "delora_B",
    "lora_lambda": {"name": "delora_lambda", "shape": (1,)},
    "lora_wnorm": "delora_w_norm",
}
LAYERS = {"lora": lora.peft_layer(LORA), "dora": dora.peft_layer(DORA), "delora": delora.peft_layer(DELORA)}
CONFIGS = {
    "lora": peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"]),
    "dora": peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["layer"]),
    "delora": peft.DeloraConfig(r=4, target_modules=["layer"]),
}
CASE = Case(d_in=24, d_out=16, rank=4, alpha=6.0, batch=(2, 5))


def of(variant, **changes):
    """A case that the variant can have."""
    return CASE.but(**({"alpha": None} if variant == "delora" else {}) | changes)


def built(variant, case):
    return LAYERS[variant].build(case, problem(case, LAYERS[variant].formula))


@pytest.mark.parametrize("variant", LAYERS)
def test_the_tensors_have_the_names_of_peft_s_checkpoint(variant):
    subject = built(variant, of(variant))
    model = peft.get_peft_model(nn.ModuleDict({"layer": nn.Linear(24, 16)}), CONFIGS[variant])
    saved = {name.removeprefix("base_model.model.layer."): tensor for name, tensor in peft.get_peft_model_state_dict(model).items()}
    assert {entry.name for entry in subject.map.values()} == set(saved)
    for entry in subject.map.values():
        assert subject.tensors[entry.name].shape == saved[entry.name].shape
    base = {"base_layer.weight", "base_layer.bias"}
    assert set(subject.tensors) == set(saved) | base
    assert subject.trainable == set(saved) - {"delora_w_norm"}


@pytest.mark.parametrize("variant", LAYERS)
@pytest.mark.parametrize(
    ("dtype", "adapter", "expected"),
    [
        ("float64", None, "float64"),
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
    ],
)
def test_the_adapter_has_the_asked_dtype_and_the_base_keeps_its_own(variant, dtype, adapter, expected):
    subject = built(variant, of(variant, dtype=dtype, adapter_dtype=adapter))
    assert {name: subject[name].dtype for name in subject.map} == dict.fromkeys(subject.map, getattr(torch, expected))
    assert subject.tensors["base_layer.weight"].dtype == getattr(torch, dtype)
    assert {name: subject.read(name).dtype for name in subject.map} == dict.fromkeys(subject.map, getattr(torch, expected))


@pytest.mark.parametrize("variant", LAYERS)
def test_the_base_holds_the_problem_s_weight_and_is_not_trained(variant):
    case = of(variant)
    numbers = problem(case, LAYERS[variant].formula)
    subject = LAYERS[variant].build(case, numbers)
    assert subject.tensors["base_layer.weight"].equal(numbers.weight)
    assert subject.tensors["base_layer.bias"].equal(numbers.bias)
    assert not subject.tensors["base_layer.weight"].requires_grad


@pytest.mark.parametrize("variant", LAYERS)
def test_the_init_is_seeded_immediately_before_it(variant):
    case = of(variant, dtype="float32", seed=11)
    torch.manual_seed(5)
    one = built(variant, case)
    torch.rand(7)
    other = built(variant, case)
    torch.manual_seed(11)
    expected = nn.init.kaiming_uniform_(torch.empty(4, 24), a=math.sqrt(5))
    assert one.read("lora_A").equal(expected)
    for name in one.map:
        assert one.read(name).equal(other.read(name)), name
    assert not built(variant, case.but(seed=12)).read("lora_A").equal(expected)
    assert not one.read("lora_B").any()


def test_the_gaussian_init_reaches_peft():
    subject = built("lora", CASE.but(dtype="float32", options={"init": "gaussian"}, seed=2))
    torch.manual_seed(2)
    assert subject.read("lora_A").equal(nn.init.normal_(torch.empty(4, 24), std=1 / 4))


def test_frozen_and_derived_tensors_follow_the_base():
    numbers = problem(of("delora"), delora.FORMULA)
    columns = numbers.weight.square().sum(dim=0).sqrt()
    torch.testing.assert_close(built("delora", of("delora")).read("lora_wnorm"), columns, rtol=1e-15, atol=0)
    numbers = problem(CASE, dora.FORMULA)
    torch.testing.assert_close(built("dora", CASE).read("lora_m"), numbers.weight.square().sum(dim=1).sqrt(), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("variant", "case", "words"),
    [
        ("lora", CASE, {"r": 4, "lora_alpha": 6.0}),
        ("lora", CASE.but(rank=None, alpha=None), {}),
        (
            "lora",
            CASE.but(options={"dropout": 0.1, "rslora": True, "init": "gaussian"}),
            {"r": 4, "lora_alpha": 6.0, "lora_dropout": 0.1, "use_rslora": True, "init_lora_weights": "gaussian"},
        ),
        ("dora", CASE.but(options={"init": "kaiming"}), {"r": 4, "lora_alpha": 6.0, "init_lora_weights": True}),
        ("delora", of("delora", options={"lambda0": 7.0, "dropout": 0.2}), {"r": 4, "delora_lambda": 7.0, "module_dropout": 0.2}),
    ],
)
def test_a_case_in_peft_s_words(variant, case, words):
    assert LAYERS[variant].arguments(case) == words


@pytest.mark.parametrize(
    ("variant", "case", "message"),
    [
        ("lora", CASE.but(options={"lambda0": 7.0}), "no word for lambda0=7.0; known: rank, alpha, dropout"),
        ("dora", CASE.but(options={"niter": 4}), "no word for niter=4; known: rank, alpha, dropout"),
        ("delora", CASE, "no word for alpha=6.0; known: rank, lambda0, dropout"),
    ],
)
def test_an_option_without_a_word_is_refused_and_the_known_are_listed(variant, case, message):
    with pytest.raises(ValueError, match=message):
        LAYERS[variant].arguments(case)
    with pytest.raises(ValueError, match=message):
        LAYERS[variant].build(case, problem(of(variant), LAYERS[variant].formula))


def test_a_value_without_a_word_is_refused_like_an_option_without_one():
    with pytest.raises(ValueError, match="no word for init='loftq'; known values: 'kaiming', 'gaussian', 'orthogonal'"):
        LAYERS["lora"].arguments(CASE.but(options={"init": "loftq"}))


@pytest.mark.parametrize(
    ("variant", "taken", "refused"),
    [
        ("lora", ["linear", "conv1d"], ["other"]),
        ("dora", ["linear", "conv1d"], ["other"]),
        ("delora", ["linear"], ["conv1d", "other"]),
    ],
)
def test_base_layers_that_peft_does_not_take_are_refused_by_name(variant, taken, refused):
    for kind in taken:
        case = of(variant, layer=kind)
        assert LAYERS[variant].refuses(case) is None
        assert built(variant, case).read("lora_A").shape == (4, 24)
    for kind in refused:
        case = of(variant, layer=kind)
        assert LAYERS[variant].refuses(case).startswith(f"peft {peft.__version__} does not take ")
        with pytest.raises((TypeError, ValueError), match="not supported"):
            built(variant, case)


def test_the_version_names_release_and_file():
    assert LAYERS["delora"].version.startswith(f"peft {peft.__version__}, ")
    for variant, file in (("lora", "tuners/lora/layer.py"), ("dora", "tuners/lora/dora.py"), ("delora", "tuners/delora/layer.py")):
        assert file in LAYERS[variant].version


@pytest.mark.parametrize(("call", "expected"), [("positional", ((5,), [])), ("keyword", ((), ["x"]))])
def test_the_layer_is_called_as_the_case_says(call, expected):
    case = CASE.but(call=call)
    numbers = problem(case, lora.FORMULA)
    subject = LAYERS["lora"].build(case, numbers)
    seen = []
    subject.module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((tuple(arg.shape[-2] for arg in args), list(kwargs))), with_kwargs=True
    )
    run(subject, case, numbers, numbers.parameters)
    assert seen == [expected]


def test_the_scale_of_the_case_reaches_the_layer():
    for case, scale in ((CASE, 1.5), (CASE.but(options={"rslora": True}), 3.0), (CASE.but(rank=None, alpha=None), 1.0)):
        numbers = problem(case, lora.FORMULA)
        trace = run(built("lora", case), case, numbers, numbers.parameters)
        low_rank = numbers.x @ numbers.parameters["lora_A"].T @ numbers.parameters["lora_B"].T
        expected = numbers.x @ numbers.weight.T + numbers.bias + scale * low_rank
        torch.testing.assert_close(trace["output"], expected, rtol=1e-13, atol=1e-13)


def test_dropout_reaches_the_layer():
    case = CASE.but(options={"dropout": 0.4})
    numbers = problem(case, lora.FORMULA)
    plain = run(built("lora", CASE), CASE, numbers, numbers.parameters)["output"]
    subject = LAYERS["lora"].build(case, numbers)
    assert (run(subject, case, numbers, numbers.parameters)["output"] - plain).norm() > 0.01 * plain.norm()
    assert run(subject, case.but(mode="eval"), numbers, numbers.parameters)["output"].equal(plain)


# The methods on the input side and those that scale or turn the output: layer, case, tensors of the checkpoint.
PLAIN = CASE.but(rank=None, alpha=None)
ROAD = road.peft_layer({"lora_theta": "road_theta", "lora_alpha": "road_alpha"})
OTHERS = {
    "ia3": (ia3.peft_layer({"lora_g": {"name": "ia3_l", "shape": (-1, 1)}}), PLAIN, {"ia3_l": (16, 1)}),
    "ia3_ff": (ia3_ff.peft_layer({"lora_g": {"name": "ia3_l", "shape": (1, -1)}}), PLAIN, {"ia3_l": (1, 24)}),
    "hra": (hra.peft_layer({"lora_U": {"name": "hra_u", "transpose": True}}), CASE.but(alpha=None), {"hra_u": (24, 4)}),
} | {
    name: (ROAD, PLAIN.but(options={"group_size": 8, "road_variant": name}), {"road_theta": (size,), "road_alpha": (size,)})
    for name, size in (("road_1", 8), ("road_2", 16), ("road_4", 32))
}
each_other = pytest.mark.parametrize(("layer", "case", "shapes"), OTHERS.values(), ids=OTHERS)


@each_other
@pytest.mark.parametrize(("dtype", "adapter"), [("float64", None), ("bfloat16", None), ("bfloat16", "float32")])
def test_they_have_the_checkpoint_s_tensors_in_the_asked_dtype(layer, case, shapes, dtype, adapter):
    case = case.but(dtype=dtype, adapter_dtype=adapter)
    subject = layer.build(case, problem(case, layer.formula))
    assert {name: tuple(tensor.shape) for name, tensor in subject.tensors.items() if not name.startswith("base_layer")} == shapes
    assert subject.trainable == set(shapes)
    assert {subject.read(name).dtype for name in subject.map} == {getattr(torch, adapter or dtype)}
    assert subject.tensors["base_layer.weight"].dtype == getattr(torch, dtype)


@each_other
def test_what_they_compute_is_the_closed_form(layer, case, shapes):
    numbers = problem(case, layer.formula)
    trace = run(layer.build(case, numbers), case, numbers, numbers.parameters)
    weight, bias = layer.formula.adapted(case, numbers.weight, numbers.bias, numbers.parameters)
    torch.testing.assert_close(trace["output"], numbers.x @ weight.T + bias, rtol=1e-12, atol=1e-13)
    assert (weight - numbers.weight).norm() > 0.1 * numbers.weight.norm()


def test_hra_starts_with_pairs_drawn_after_the_seed():
    layer, case, _ = OTHERS["hra"]
    case = case.but(dtype="float32", seed=11)
    torch.manual_seed(11)
    half = nn.init.kaiming_uniform_(torch.empty(24, 2), a=math.sqrt(5))
    for dtype in ("float32", "float64"):
        drawn = layer.build(case.but(dtype=dtype), problem(case, layer.formula)).read("lora_U")
        assert drawn.equal(torch.stack([half[:, 0], half[:, 0], half[:, 1], half[:, 1]]).to(drawn.dtype))
