"""The rules of lite hold for every variant, whatever its options and the side it acts on: a table of configs, a list of rules."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from transformers.pytorch_utils import Conv1D

import lite
from lite.layers import as_layer
from lite.tests.toys import Coded, OtherLinear, all_bits, bits, inputs, snapshot, trainable, trained
from lite.variant import variant_of

# Options that fit layers of 8 outputs; several where they make another layout.
CONFIGS: dict[str, Callable[..., lite.Config]] = {
    "ia3": lite.IA3Config,
    "ia3_ff": lite.IA3FFConfig,
    "hra": lambda **more: lite.HRAConfig(**{"r": 4} | more),
    "road_1": lambda **more: lite.RoadConfig(**{"group_size": 4} | more),
    "road_2": lambda **more: lite.RoadConfig(**{"group_size": 8, "road_variant": "road_2"} | more),
    "road_4": lambda **more: lite.RoadConfig(**{"group_size": 2, "road_variant": "road_4"} | more),
}
VARIANT = {name: variant_of(make()).name for name, make in CONFIGS.items()}
EXACT = set(CONFIGS) - {"hra"}  # two reflections cancel up to rounding
each = pytest.mark.parametrize("name", CONFIGS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
KINDS = {
    "Linear": (lambda: nn.Linear(6, 8), "input"),
    "Linear without bias": (lambda: nn.Linear(6, 8, bias=False), "input"),
    "Conv1D": (lambda: Conv1D(8, 6), "x"),
    "own class": (lambda: OtherLinear(6, 8), "hidden"),
}


def net() -> nn.Sequential:
    """(…, 6) → (…, 8), the same at every call; mixed requires_grad and modes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    model[2].weight.requires_grad_(False)
    model[1].eval()
    return model


def attached(name: str, model: nn.Module | None = None, **more: object) -> nn.Module:
    """A model with moved adapters; drawn from a seed."""
    model = net() if model is None else model
    torch.manual_seed(3)
    return trained(lite.attach(model, CONFIGS[name](**more)))


@each
def test_only_the_adapter_trains_and_detach_restores_the_model_to_the_bit(name):
    model, x = net(), inputs()
    before, y = snapshot(model), model(x)
    lite.attach(model, CONFIGS[name]())
    start = all_bits(model)
    names = {name.rpartition(".")[2] for name in trainable(model)}
    assert names == set(lite.VARIANTS[VARIANT[name]].parameters(CONFIGS[name](), as_layer("", nn.Linear(6, 8))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert {key for key, value in all_bits(model).items() if value != start[key]} == set(trainable(model))
    assert not torch.equal(model(x), y)
    assert snapshot(lite.detach(model)) == before
    assert torch.equal(model(x), y)


@each
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("adapter", [None, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("base", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_an_adapted_model_starts_as_the_model(name, base, adapter, training):
    model, x = net().to(base).train(training), inputs(dtype=base)
    y = model(x)
    lite.attach(model, CONFIGS[name](dtype=adapter))
    out = model(x)
    assert out.dtype is base
    if name in EXACT:
        assert torch.equal(out, y)
    else:
        assert (out.double() - y.double()).norm() < 16 * torch.finfo(base).eps * y.double().norm()


@each
@each_dtype
def test_files_bring_everything_back_to_the_bit(name, dtype, tmp_path):
    model, x = attached(name, net().to(dtype)), inputs(dtype=dtype)
    lite.save(model, tmp_path / "one")
    other = lite.load(net().to(dtype), tmp_path / "one")
    assert all_bits(other) == all_bits(model)
    assert torch.equal(other(x), model(x))
    lite.save(other, tmp_path / "two")
    assert (tmp_path / "one").stat().st_size == (tmp_path / "two").stat().st_size
    model(x).double().square().sum().backward()
    other(x).double().square().sum().backward()
    grads = [{key: bits(p.grad) for key, p in trainable(m).items()} for m in (model, other)]
    assert grads[0] == grads[1]
    assert all(p.grad.any() for p in trainable(other).values())


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_equal_independent_and_detaches_alone(name, copied):
    model, x = attached(name), inputs()
    y, state = model(x), all_bits(model)
    other = copied(model)
    assert all_bits(other) == state
    assert torch.equal(other(x), y)
    assert not torch.equal(trained(other, seed=5)(x), y)
    assert torch.equal(lite.detach(other)(x), net()(x))
    assert all_bits(model) == state
    assert torch.equal(model(x), y)


@each
@each_dtype
def test_the_adapters_follow_a_cast_of_the_model(name, dtype):
    model, x = attached(name), inputs()
    y = model(x)
    cast = model.to(dtype)(x.to(dtype))
    assert cast.dtype is dtype
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert (cast.double() - y.double()).norm() < (1e-5 if dtype is torch.float64 else 0.1) * y.double().norm()
    assert all_bits(lite.detach(model)) == all_bits(net().to(dtype))


@each
@pytest.mark.parametrize(("base", "adapter"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)], ids=str)
def test_adapters_compute_in_their_dtype_and_answer_in_the_bases(name, base, adapter):
    layer, x = attached(name, nn.Linear(6, 8).to(base), dtype=adapter), inputs(7, 6, dtype=base).requires_grad_()
    wide = copy.deepcopy(layer).double()
    y = layer(x)
    assert y.dtype is base
    assert (y.double() - wide(x.double())).norm() < 4 * torch.finfo(base).eps * y.double().norm()
    y.double().square().sum().backward()
    assert x.grad.dtype is base
    assert {p.grad.dtype for p in trainable(layer).values()} == {adapter}


@each
def test_autocast_decides_the_dtype_of_the_output(name):
    layer, x = attached(name, nn.Linear(6, 8)), inputs(7, 6)
    y = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(x)
    assert cast.dtype is torch.bfloat16
    assert (cast.float() - y).norm() < 0.05 * y.norm()


@each
@pytest.mark.parametrize(("build", "keyword"), KINDS.values(), ids=KINDS)
def test_every_kind_of_layer_is_adapted_however_it_is_called(name, build, keyword):
    torch.manual_seed(0)
    plain, x = build().double(), inputs(2, 3, 6, dtype=torch.float64)
    y = plain(x)
    layer = attached(name, plain)
    assert torch.equal(layer(**{keyword: x}), layer(x))
    assert not torch.equal(layer(x), y)
    twin = nn.Linear(6, 8, bias=layer.bias is not None).double()
    twin.weight.data, twin.bias = (layer.weight.T if isinstance(layer, Conv1D) else layer.weight).detach().clone(), layer.bias
    attached(name, twin)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(lite.detach(layer)(x), y)


@each
@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3), (0,), (3, 0)], ids=str)
def test_any_number_of_tokens_on_any_number_of_axes(name, shape):
    layer, x = attached(name, nn.Linear(6, 8).double()), inputs(*shape, 6, dtype=torch.float64).requires_grad_()
    y = layer(x)
    assert y.shape == (*shape, 8)
    flat = layer(x.reshape(-1, 6)).reshape(*shape, 8)
    torch.testing.assert_close(y, flat, rtol=1e-12, atol=1e-12)
    y.square().sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad.isfinite().all() and p.grad.any() == bool(x.numel()) for p in trainable(layer).values())


@each
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_gradients_are_those_of_finite_differences(name, bias):
    layer = attached(name, nn.Linear(6, 8, bias=bias).double())
    names = list(trainable(layer))

    def output(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(output, (inputs(2, 3, 6, dtype=torch.float64).requires_grad_(), *trainable(layer).values()))


@each
@each_dtype
def test_the_start_does_not_depend_on_dtypes(name, dtype):
    def start(base: torch.dtype, **more: object) -> dict[str, Tensor]:
        layer = nn.Linear(6, 8).to(base)
        torch.manual_seed(3)
        return dict(trainable(lite.attach(layer, CONFIGS[name](**more))))

    expected = start(torch.float32)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        default = start(torch.float32)
    finally:
        torch.set_default_dtype(before)
    assert all(bits(default[key]) == bits(value) for key, value in expected.items())
    for other in (start(dtype), start(torch.float32, dtype=dtype)):
        assert all(bits(other[key]) == bits(value.to(dtype)) for key, value in expected.items())


@each
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_quantised_layer_is_adapted_by_methods_that_do_not_read_its_weight(name, codes):
    assert not lite.VARIANTS[VARIANT[name]].reads_weight
    torch.manual_seed(0)
    layer, x = Coded(6, 8, codes), inputs(7, 6)
    y = layer(x)
    attached(name, layer)
    assert {parameter.dtype for parameter in trainable(layer).values()} == {torch.float32}
    assert not torch.equal(layer(x), y)
    layer(x).square().sum().backward()
    assert all(parameter.grad.any() for parameter in trainable(layer).values())
    assert torch.equal(lite.detach(layer)(x), y)


@pytest.mark.parametrize(
    ("make", "option", "values"),
    [
        (lite.HRAConfig, "r", [0, -2, 3, 2.0, True, "8", None]),
        (lite.HRAConfig, "apply_gs", [True, 1, 0, None]),
        (lite.RoadConfig, "group_size", [0, -4, 3, 4.0, True, None]),
        (lite.RoadConfig, "road_variant", ["road_3", "", 1, None]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_and_value(make, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{make.__name__}: {option} .*, got {value!r}$"):
            make(**{option: value})


def test_a_group_that_does_not_fit_is_refused_before_anything_is_touched():
    model = net()
    before = snapshot(model)
    with pytest.raises(ValueError, match="road on 0: group_size 64 has to divide d_out, which is 8; set group_size or exclude"):
        lite.attach(model, lite.RoadConfig())
    assert snapshot(model) == before


@pytest.mark.parametrize("r", [2, 8, 20])
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-9, 0.0], ids=str)
def test_hra_is_the_product_of_its_reflections_however_near_they_are(r, gap):
    layer, x = nn.Linear(6, 8).double(), inputs(7, 6, dtype=torch.float64)
    lite.attach(layer, lite.HRAConfig(r=r))
    with torch.no_grad():
        layer.lora_U.copy_(inputs(6, dtype=torch.float64) + gap * inputs(r, 6, seed=2, dtype=torch.float64))
    W = layer.weight.detach()
    for u in layer.lora_U.detach():
        W = W @ (torch.eye(6, dtype=torch.float64) - 2 * torch.outer(u, u) / u.square().sum())
    torch.testing.assert_close(layer(x), x @ W.T + layer.bias, rtol=1e-12, atol=1e-13)


def test_hra_starts_with_pairs_whose_bound_follows_the_rank():
    U = lite.attach(nn.Linear(100, 8), lite.HRAConfig(r=32)).lora_U.detach()
    assert torch.equal(U[::2], U[1::2])
    assert 0.24 < U.abs().max() <= 0.25
    assert not (U[::2, None] == U[None, ::2]).all(dim=-1).triu(1).any()


def test_hra_builds_nothing_of_the_size_of_a_weight():
    seen = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            seen.extend(tuple(t.shape) for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor))
            return result

    layer = lite.attach(nn.Linear(50, 40), lite.HRAConfig(r=4))
    x = torch.ones(3, 50)
    with Sizes():
        layer(x).sum().backward()
    assert max(torch.Size(shape).numel() for shape in seen if shape not in {(40, 50), (50, 40)}) <= 4 * 50
    assert (50, 50) not in seen
