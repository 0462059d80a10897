"""What adapters hold at the start: the drawn values, whatever dtypes are about, and the values derived from the base."""

import pytest
import torch
from torch import nn

import lite
from lite.layers import linear_layers
from lite.tests.toys import DRAWN, EXACT, RESIDUAL, attach, bits, calibration, each, each_config, inputs, net, trained
from lite.variant import variant_of

DTYPES = [torch.float64, torch.bfloat16, torch.float16]
each_drawn = each(*DRAWN)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def start(config, *, seed=3, base=torch.float32, d_in=6, d_out=8):
    """The adapter's tensors right after attach."""
    torch.manual_seed(0)
    layer = nn.Linear(d_in, d_out, dtype=torch.float32).to(base)
    torch.manual_seed(seed)
    return {name: t for name, t in attach(layer, config).state_dict().items() if name.startswith("lora_")}


def same(one, other):
    return {name: bits(t) for name, t in one.items()} == {name: bits(t) for name, t in other.items()}


@each(*DRAWN, "hra", "antipasto_dplr", "antipasto_rot")
def test_the_seed_decides_the_start(make):
    assert same(start(make(r=2)), start(make(r=2)))
    assert not same(start(make(r=2), seed=4), start(make(r=2), seed=5))


@pytest.fixture
def default_dtype():
    """Puts torch's default dtype back."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@each_config
@each_dtype
@pytest.mark.parametrize("adapter", [None, torch.float64], ids=str)
def test_torchs_default_dtype_changes_nothing(make, adapter, dtype, default_dtype):
    config = make(r=2, dtype=adapter, lambda0=0.1)  # a λ that no dtype holds exactly
    expected = start(config)
    default_dtype(dtype)
    assert same(start(config), expected)


OTHERWISE = {  # drawn in other ways than by default
    "lora gaussian": lite.LoRAConfig(r=2, init="gaussian"),
    "lora orthogonal": lite.LoRAConfig(r=2, init="orthogonal"),
    "delora kaiming": lite.DeLoRAConfig(r=2, init="kaiming"),
}


@pytest.mark.parametrize("config", OTHERWISE.values(), ids=OTHERWISE)
@each_dtype
def test_nor_does_it_where_a_start_is_drawn_in_another_way(config, dtype, default_dtype):
    """Of 16 numbers and more: torch draws fewer in float64 for every dtype."""
    expected = start(config, d_in=24, d_out=20)
    default_dtype(dtype)
    assert same(start(config, d_in=24, d_out=20), expected)


@pytest.mark.parametrize(
    ("config", "drawn"),
    [
        (lite.LoRAConfig(r=2), ["lora_A"]),
        (OTHERWISE["lora gaussian"], ["lora_A"]),
        (OTHERWISE["lora orthogonal"], ["lora_A", "lora_B"]),
        (OTHERWISE["delora kaiming"], ["lora_A", "lora_B"]),
        (lite.DeLoRAConfig(r=2), ["lora_A", "lora_B"]),
        (lite.HRAConfig(r=2), ["lora_U"]),
        (lite.LoRAXSConfig(r=2), ["lora_R"]),
        (lite.AntiPaSTODPLRConfig(r=3, lora_rank=2), ["lora_A"]),
        (lite.AntiPaSTOAblateConfig(r=2), ["lora_c"]),
        (lite.AntiPaSTORotConfig(r=4), ["lora_delta_s"]),
    ],
    ids=[
        "lora",
        "lora gaussian",
        "lora orthogonal",
        "delora kaiming",
        "delora",
        "hra",
        "lora_xs",
        "antipasto_dplr",
        "antipasto_ablate",
        "antipasto_rot",
    ],
)
def test_numbers_are_drawn_on_the_cpu_whatever_the_default_device(config, drawn):
    """One seed starts one adapter on every machine; the meta device draws nothing."""
    layer = next(linear_layers(nn.Linear(6, 8)))

    def draw():
        torch.manual_seed(3)
        values = variant_of(config).init(config, layer)
        return {name: bits(values[name]) for name in drawn}

    expected = draw()
    with torch.device("meta"):
        assert draw() == expected


@each("eva", *RESIDUAL, "antipasto_corda", "antipasto_asvd")
def test_what_is_taken_from_weight_and_data_is_computed_where_they_are(make):
    layers = [nn.Linear(6, 8) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    data = calibration(layers[0])
    expected = attach(layers[0], make(r=2), data).state_dict()
    with torch.device("meta"):
        assert same(attach(layers[1], make(r=2), data).state_dict(), expected)


@each_config
def test_the_default_device_computes_no_output(make):
    layer, x = trained(attach(nn.Linear(6, 8), make(r=2))), inputs(5, 6)
    expected = layer(x)
    with torch.device("meta"):
        assert bits(layer(x)) == bits(expected)


# DoRA's and DeLoRA's norms are those of the weight, rounded to the adapter's dtype first or last.
NORMS = ("lora_m", "lora_wnorm")


@each_config
@each_dtype
def test_a_start_is_the_same_in_every_adapter_dtype(make, dtype):
    wide, other = start(make(r=2)), start(make(r=2, dtype=dtype))
    assert {t.dtype for t in other.values()} == {dtype}
    if dtype is torch.float64 and make.variant.statistics:
        return  # computed in it
    assert [name for name, t in other.items() if name not in NORMS and bits(t) != bits(wide[name].to(dtype))] == []


@each(*DRAWN, "ia3", "ia3_ff", "hra", "road")
@each_dtype
def test_a_start_that_is_not_taken_from_the_weight_is_the_same_on_every_base_dtype(make, dtype):
    drawn, other = start(make(r=2)), start(make(r=2), base=dtype)
    assert {t.dtype for t in other.values()} == {dtype}
    assert [name for name, t in other.items() if name not in NORMS and bits(t) != bits(drawn[name].to(dtype))] == []


@each_drawn
def test_layers_draw_one_after_the_other(make):
    torch.manual_seed(3)
    model = lite.attach(net(), make(r=2))
    assert not torch.equal(model.first.lora_A[:, :5], model.last.lora_A)
    assert model.first.lora_A.any()
    assert model.last.lora_A.any()


@each_drawn
def test_without_a_new_seed_the_next_start_differs(make):
    torch.manual_seed(3)
    first = lite.attach(nn.Linear(6, 5), make(r=2)).lora_A
    second = lite.attach(nn.Linear(6, 5), make(r=2)).lora_A
    assert not torch.equal(first, second)


@each_drawn
def test_a_kaiming_start_is_uniform_up_to_one_over_the_root_of_d_in(make):
    A = start(make(r=40), d_in=100)["lora_A"]
    assert A.shape == (40, 100)
    assert 0.099 < A.abs().max() <= 0.1
    assert abs(A.std() * 3**0.5 - 0.1) < 0.002


@pytest.mark.parametrize("make", [lite.LoRAConfig, lite.DoRAConfig], ids=["lora", "dora"])
def test_a_gaussian_start_has_a_spread_of_one_over_r(make):
    A = start(make(r=40, init="gaussian"), d_in=100)["lora_A"]
    assert abs(A.std() * 40 - 1) < 0.05
    assert A.abs().max() * 40 > 3


@each_drawn
def test_b_starts_at_zero(make):
    assert not start(make(r=2))["lora_B"].any()


def test_doras_magnitudes_are_the_row_norms_of_the_weight():
    layer = lite.attach(nn.Linear(6, 5), lite.DoRAConfig())
    torch.testing.assert_close(layer.lora_m.detach(), layer.weight.square().sum(1).sqrt())


def test_deloras_weight_norms_are_those_of_the_input_channels():
    layer = lite.attach(nn.Linear(6, 5), lite.DeLoRAConfig())
    torch.testing.assert_close(layer.lora_wnorm, layer.weight.square().sum(0).sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES], ids=str)
def test_deloras_strength_goes_through_float32_as_every_start_does(dtype):
    strength = start(lite.DeLoRAConfig(lambda0=0.1, dtype=dtype))["lora_lambda"]
    assert bits(strength) == bits(torch.tensor(0.1, dtype=torch.float32).to(dtype))


@each(*EXACT)
@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        (torch.float32, None),
        (torch.float64, None),
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_adapted_model_starts_as_the_model_bit_for_bit(make, base, adapter, training):
    model, x = net().to(base).train(training), inputs(dtype=base)
    y = model(x)
    attach(model, make(r=2, dtype=adapter, dropout=0.5), [inputs(30, 6, dtype=base)])
    assert model(x).dtype is base
    assert torch.equal(model(x), y)
