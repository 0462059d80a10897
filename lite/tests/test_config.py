"""Configs refuse nonsense, say what is allowed, and survive JSON."""

import dataclasses
import json
import math
import re

import pytest
import torch

import lite
from lite.tests.toys import CONFIGS

# By the name of the option; where a method allows other values, by its config's name, too.
BAD = {
    "target_names": ["q_proj", ("(",), ("ok", "[a"), (1,), None, 3],
    "exclude_names": ["lm_head", ("*",), (b"x",), None],
    "target_roles": ["reader", ("boss",), ("reader", "boss"), (1,), None],
    "layers": [3, "0", (-1,), (0.0,), (True,), ("0",)],
    "dtype": [torch.int8, torch.bool, torch.complex64, "float32", 32],
    "r": [0, -1, 2.5, True, "8", None, math.inf],
    "alpha": [0, -1, 0.0, math.inf, -math.inf, math.nan, True, "8", None],
    "dropout": [1, 1.0, 1.5, -0.1, math.nan, math.inf, True, "0.1", None],
    "rslora": [1, 0, None, "yes"],
    "init": ["zeros", "", "Kaiming", None, True],
    "DeLoRAConfig.init": ["gaussian", "orthogonal", "", "Kaiming", None, True],
    "DoRAConfig.init": ["orthogonal", "zero", None],
    "lambda0": [0, -3.5, math.inf, -math.inf, math.nan, True, "15", None],
    "lora_bias": [1, 0, None, "all"],
    "niter": [0, -1, 2.0, True, "4", math.inf],
    "LoRAXSConfig.alpha": [0, -1, math.inf, math.nan, True, "8"],
    "rho": [0.99, 0, -2, math.inf, math.nan, True, "2", None],
    "adjust_scaling_factors": [1, 0, None, "no"],
    "whiten": [1, 0, None, "no"],
    "mode": ["", "IPM", "pca", None, True],
    "damp": [0, -0.01, math.inf, math.nan, True, "0.01", None],
    "scaling_method": ["", "fisher", "ABS_MEAN", None, True],
    "act_alpha": [0, -0.5, math.inf, math.nan, True, "0.5", None],
    "residual": [1, 0, None, "no"],
    "HRAConfig.r": [0, -2, 3, 2.0, True, "8", None],
    "apply_gs": [True, 1, 0, None],
    "group_size": [0, -4, 3, 4.0, True, math.inf, None],
    "coeff": [math.inf, -math.inf, math.nan, True, "1", None],
    "act_pool": ["", "RMS", "max", None, True],
    "suppress_only": [1, 0, None, "yes"],
    "cov_eps": [0, -0.01, math.inf, math.nan, True, "0.01", None],
    "k": [0, -1, 2.5, True, "1", None, math.inf],
    "init_alpha": [-0.01, 1.01, math.inf, math.nan, True, "0.1", None],
    "cov_orient": [1, 0, None, "yes"],
    "road_variant": ["road_3", "", "ROAD_1", 1, None],
    "lora_rank": [0, -1, 2.5, True, "8", None, math.inf],
    "block": [0, -1, 2.5, True, "8", None, math.inf],
    "block_size": [0, 1, -2, 2.0, True, "4", None],
    "max_rotation_angle": [0, -0.5, math.pi, 4, math.inf, math.nan, True, "0.5", None],
    "rotate_basis": ["", "v", "UV", None, True],
}
GOOD = {  # not the defaults, and at the edge of what is allowed
    "target_names": [("q_proj$", r"\.k"), ("",)],
    "exclude_names": [(), ("classifier",)],
    "target_roles": [("reader", "writer", "inner"), ("inner",)],
    "layers": [(0,), (3, 11), ()],
    "dtype": [torch.float32, torch.float64, torch.bfloat16, torch.float16],
    "r": [1, 4096],
    "alpha": [1e-30, 1e30, 1, 0.1],
    "dropout": [0.1, 0.999],
    "rslora": [True],
    "init": ["gaussian"],
    "LoRAConfig.init": ["orthogonal", "gaussian"],
    "DeLoRAConfig.init": ["kaiming"],
    "lambda0": [7, 1e-3],
    "lora_bias": [True],
    "niter": [1, 16],
    "LoRAXSConfig.alpha": [1e-30, 1e30, 8, 0.1],
    "rho": [1, 1.0, 1.5, 100],
    "adjust_scaling_factors": [False],
    "whiten": [True],
    "mode": ["kpm"],
    "damp": [1e-30, 3],
    "scaling_method": ["abs_max"],
    "act_alpha": [1e-3, 1],
    "residual": [False],
    "HRAConfig.r": [2, 4096],
    "apply_gs": [],  # one value is allowed
    "group_size": [4096, 2],
    "coeff": [0, 1e30, -0.5],
    "act_pool": ["mean_abs"],
    "suppress_only": [True],
    "cov_eps": [1e-30, 3],
    "k": [2, 4096],
    "init_alpha": [0, 0.5, 1],
    "cov_orient": [True],
    "road_variant": ["road_2", "road_4"],
    "lora_rank": [16, 1],
    "AntiPaSTODPLRConfig.r": [8, 4096],
    "block": [15, 1],
    "AntiPaSTOArrowConfig.r": [9, 4096],
    "AntiPaSTORotConfig.act_pool": ["rms"],
    "AntiPaSTORotConfig.r": [4, 4096],
    "block_size": [16, 8, 2],
    "max_rotation_angle": [1e-9, 3.14, 1],
    "rotate_basis": ["U", "none", "both"],
}
CLASSES = [make.config for make in CONFIGS.values()]
ALL = [(make, field) for make in CLASSES for field in dataclasses.fields(make)]
COMMON = {field.name for field in dataclasses.fields(lite.Config)}
each_class = pytest.mark.parametrize("make", CLASSES, ids=CONFIGS)
NAMES = sorted({field.name for _, field in ALL})


def values(table, make, name):
    return table.get(f"{make.__name__}.{name}", table.get(name, []))


def each_option(table):
    """A test for an option of a method, with its values in the table; the common ones are checked by one and the same code."""
    cases = [(make, f.name) for make, f in ALL if make is lite.LoRAConfig or f.name not in COMMON]
    return pytest.mark.parametrize(
        ("make", "name", "given"), [pytest.param(m, n, values(table, m, n), id=f"{m.__name__}-{n}") for m, n in cases]
    )


@pytest.mark.parametrize("table", [BAD, GOOD], ids=["bad", "good"])
def test_these_tables_know_every_option(table):
    assert sorted(name for name in table if "." not in name) == NAMES
    assert [field.name for make, field in ALL if not values(table, make, field.name)] == (["apply_gs"] if table is GOOD else [])
    known = {f"{make.__name__}.{field.name}" for make, field in ALL}
    assert {name for name in table if "." in name} <= known


@each_class
def test_an_unknown_option_is_refused_with_the_known_ones(make):
    with pytest.raises(TypeError, match=f"{make.__name__} has no option rank, lr") as error:
        make(dtype=None, rank=4, lr=1e-3)
    known = str(error.value).partition("its options are ")[2].split(", ")
    assert known == [field.name for field in dataclasses.fields(make)]


@each_class
def test_positional_options_are_refused_with_the_known_ones(make):
    with pytest.raises(TypeError, match=rf"{make.__name__} takes its options by keyword, got \(4,\).*\bdtype\b"):
        make(4)


@each_option(BAD)
def test_a_value_out_of_range_is_refused_by_name_and_value(make, name, given):
    for value in given:
        with pytest.raises(ValueError, match=rf"^{make.__name__}: {name} .*, got {re.escape(repr(value))}$"):
            make(**{name: value})


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["huge", "-huge"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lite.LoRAConfig, "alpha"),
        (lite.LoRAConfig, "dropout"),
        (lite.DeLoRAConfig, "lambda0"),
        (lite.LoRAXSConfig, "alpha"),
        (lite.EVAConfig, "rho"),
        (lite.CorDAConfig, "damp"),
        (lite.ASVDConfig, "act_alpha"),
    ],
)
def test_an_integer_beyond_every_float_is_refused_as_a_value(make, name, value):
    with pytest.raises(ValueError, match=f"^{make.__name__}: {name} "):
        make(**{name: value})


@pytest.mark.parametrize("pattern", ["a{99999999999999}", "(" * 5000 + ")" * 5000], ids=["repetition", "nesting"])
def test_a_pattern_too_large_to_compile_is_refused_as_a_value(pattern):
    with pytest.raises(ValueError, match="LoRAConfig: target_names"):
        lite.LoRAConfig(target_names=(pattern,))


@each_option(GOOD)
def test_a_value_in_range_is_kept_and_survives_json(make, name, given):
    for value in given:
        config = make(**{name: value})
        assert getattr(config, name) == value != getattr(make(), name)
        assert config != make()
        back = make.from_dict(json.loads(json.dumps(config.to_dict())))
        assert back == config
        assert repr(back) == repr(config)


@each_class
def test_all_options_together_survive_json(make):
    config = make(**{field.name: good[-1] for field in dataclasses.fields(make) if (good := values(GOOD, make, field.name))})
    plain = json.loads(json.dumps(config.to_dict()))
    assert list(plain) == [field.name for field in dataclasses.fields(make)]
    assert plain["dtype"] == "float16"
    assert repr(make.from_dict(plain)) == repr(config)


@pytest.mark.parametrize("r", [1, 3, 7])
def test_an_orthogonal_start_has_an_even_rank(r):
    with pytest.raises(ValueError, match=f"LoRAConfig: init 'orthogonal'.*r must be even, got {r}"):
        lite.LoRAConfig(init="orthogonal", r=r)


@each_class
def test_lists_become_tuples(make):
    lists = {"target_names": ["a", "b"], "exclude_names": [], "target_roles": ["reader"], "layers": [0, 1]}
    config = make(**lists)
    assert {name: getattr(config, name) for name in lists} == {name: tuple(value) for name, value in lists.items()}
    assert config == make(**{name: tuple(value) for name, value in lists.items()})
    assert len({config, make(**lists)}) == 1


@each_class
def test_a_dtype_that_is_none_is_refused_when_read_back(make):
    for dtype in ("int8", "no_such_dtype", "load", "nn", 7):
        with pytest.raises(ValueError, match=f"{make.__name__}: dtype must be None or one of torch.float16"):
            make.from_dict(make().to_dict() | {"dtype": dtype})


@each_class
def test_an_unknown_option_is_refused_when_read_back(make):
    with pytest.raises(TypeError, match="has no option rank"):
        make.from_dict(make().to_dict() | {"rank": 4})


@each_class
def test_a_config_cannot_be_changed(make):
    config = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dtype = torch.float64
    assert config == make()


@each_class
def test_every_option_is_documented(make):
    for name in (field.name for field in dataclasses.fields(make)):
        place = lite.Config if name in COMMON else make
        assert re.search(rf"^\s*{name}: \S", place.__doc__, re.MULTILINE), f"{place.__name__}'s docstring says nothing about {name}"
