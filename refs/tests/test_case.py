"""A case is rebuilt from its own text, from nothing else, and has an id of its own."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refs.case import Case, as_dtype

PLAIN = Case(d_in=24, d_out=16, rank=4, alpha=6.0, batch=(2, 5))
QUERY = "minilm:encoder.layer.3.attention.self.query"
FIELDS = [field.name for field in dataclasses.fields(Case)]

# A pretrained module has its sizes, so they are drawn together.
BASES = st.tuples(
    st.sampled_from(["random", "gap", "flat", "deficient"]), st.integers(1, 64), st.integers(1, 64)
) | st.sampled_from([(QUERY, 384, 384), ("minilm:encoder.layer.3.output.dense", 1536, 384)])
OPTIONS = st.dictionaries(
    st.sampled_from(["dropout", "rslora", "init", "lambda0"]),
    st.booleans() | st.integers(-3, 9).map(lambda n: n / 2 + 0.25) | st.sampled_from(["kaiming", "gaussian"]),
)


def made(base, **fields):
    weight, d_in, d_out = base
    return Case(weight=weight, d_in=d_in, d_out=d_out, **fields)


CASES = st.builds(
    made,
    BASES,
    rank=st.none() | st.integers(1, 16),
    alpha=st.none() | st.integers(1, 4000).map(lambda n: n / 4),
    bias=st.booleans(),
    layer=st.sampled_from(["linear", "conv1d", "other"]),
    call=st.sampled_from(["positional", "keyword"]),
    batch=st.lists(st.integers(1, 12), max_size=3).map(tuple),
    dtype=st.sampled_from(["float64", "float32", "bfloat16", "float16"]),
    adapter_dtype=st.none() | st.sampled_from(["float32", "bfloat16"]),
    device=st.sampled_from(["cpu", "cuda", "cuda:1"]),
    threads=st.integers(1, 3),
    scales=st.tuples(*[st.sampled_from([1.0, 1e-3, 10.0, 100.0])] * 3),
    options=OPTIONS.map(lambda values: tuple(values.items())),
    mode=st.sampled_from(["train", "eval"]),
    state=st.sampled_from(["init", "perturbed", "clamped"]),
    seed=st.integers(0, 11),
)
DRAWN = settings(derandomize=True, deadline=None, max_examples=150)


@DRAWN
@given(CASES)
def test_a_case_is_rebuilt_from_its_repr_by_eval_and_by_parse(case):
    assert eval(repr(case), {"Case": Case}) == case
    assert Case.parse(repr(case)) == case
    assert repr(Case.parse(repr(case))) == repr(case)


@DRAWN
@given(CASES, CASES)
def test_ids_differ_when_any_single_field_does(one, other):
    for name in FIELDS:
        if name in ("d_in", "d_out") and one.weight.startswith("minilm:"):
            continue  # these follow from the module
        changed = dataclasses.replace(one, **{name: getattr(other, name)})
        if changed != one:
            assert changed.id != one.id, name


@DRAWN
@given(st.lists(CASES, min_size=2, max_size=12))
def test_ids_are_unique_in_a_varied_set(cases):
    assert len({case.id for case in cases}) == len(set(cases))


@pytest.mark.parametrize(("one", "other"), [(12.0, 12.00001), (2.0**20, 2.0**20 + 1)])
def test_ids_tell_alphas_apart_that_differ_late(one, other):
    assert PLAIN.but(alpha=one).id != PLAIN.but(alpha=other).id


def test_an_id_reads_like_this():
    assert PLAIN.id == "24x16-r4-alpha6-2x5-random-train-perturbed-float64"
    changed = PLAIN.but(
        bias=False, layer="other", call="keyword", dtype="bfloat16", adapter_dtype="float32", device="cuda", seed=3,
        options={"rslora": True}, alpha=2.5, mode="eval", state="init", weight="flat",
    )  # fmt: skip
    assert changed.id == ("24x16-r4-alpha2.5-nobias-other-keyword-2x5-flat-rslora=True-eval-init-bfloat16+float32-seed3-cuda")
    assert PLAIN.but(scales=(0.001, 1.0, 100.0), threads=2).id == (
        "24x16-r4-alpha6-2x5-random-scales0.001x1x100-train-perturbed-float64-threads2"
    )
    pretrained = Case(d_in=384, d_out=384, batch=(3, 10), weight=QUERY)
    assert pretrained.id == "minilm.encoder.layer.3.attention.self.query-3x10-train-perturbed-float64"


REFUSED = {
    "another call": "Dict(d_in=1, d_out=2)",
    "an attribute": "refs.Case(d_in=1, d_out=2)",
    "a positional argument": "Case(1, d_out=2)",
    "a positional argument too many": "Case(7, d_in=1, d_out=2)",
    "a starred argument": "Case(*[1, 2])",
    "a double star": "Case(**{'d_in': 1, 'd_out': 2})",
    "an unknown field": "Case(d_in=1, d_out=2, width=3)",
    "a missing field": "Case(d_in=1)",
    "a name": "Case(d_in=n, d_out=2)",
    "a call inside": "Case(d_in=int('1'), d_out=2)",
    "arithmetic": "Case(d_in=2 * 3, d_out=2)",
    "two calls": "Case(d_in=1, d_out=2), Case(d_in=1, d_out=2)",
    "a method": "Case(d_in=1, d_out=2).id",
    "a statement": "case = Case(d_in=1, d_out=2)",
    "half": "Case(d_in=1, d_out=2",
    "nothing": "",
    "a null byte": "Case(d_in=1, d_out=2)\0",
    "a literal": "{'d_in': 1, 'd_out': 2}",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_parse_refuses_everything_else_and_shows_it(text):
    with pytest.raises(ValueError, match="is no case: ") as refused:
        Case.parse(text)
    assert str(refused.value).startswith(repr(text))


def test_parse_refuses_a_field_given_twice():
    with pytest.raises(ValueError, match="is no case: "):
        Case.parse("Case(d_in=1, d_in=2, d_out=3)")


def test_parse_refuses_text_that_is_nested_too_deeply():
    with pytest.raises(ValueError, match="is no case: "):
        Case.parse(f"Case(d_in={'-' * 5000}1, d_out=2)")


def test_parse_runs_nothing(tmp_path):
    target = tmp_path / "written"
    with pytest.raises(ValueError, match="is no case: "):
        Case.parse(f"Case(d_in=open({str(target)!r}, 'w').write('x'), d_out=2)")
    assert not target.exists()


def test_but_changes_the_named_fields_only():
    changed = PLAIN.but(seed=7, dtype="float32")
    assert (changed.seed, changed.dtype) == (7, "float32")
    assert changed.but(seed=0, dtype="float64") == PLAIN
    assert PLAIN.seed == 0


def test_but_merges_options():
    first = PLAIN.but(options={"rslora": True, "dropout": 0.1})
    assert first.options == (("rslora", True), ("dropout", 0.1))
    second = first.but(options={"dropout": 0.3, "init": "gaussian"})
    assert second.options == (("rslora", True), ("dropout", 0.3), ("init", "gaussian"))
    assert second.but(options=(("init", "kaiming"),)).option("init", None) == "kaiming"
    assert second.but(seed=1).options == second.options


def test_option_falls_back_to_the_default():
    case = PLAIN.but(options={"dropout": 0.0})
    assert case.option("dropout", 0.5) == 0.0
    assert case.option("rslora", "unset") == "unset"


def test_a_case_is_frozen_and_hashed_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.seed = 1
    twin = Case.parse(repr(PLAIN))
    assert twin is not PLAIN
    assert {PLAIN: "found"}[twin] == "found"
    assert len({PLAIN, twin, PLAIN.but(seed=1)}) == 2


def test_every_field_is_given_by_keyword():
    with pytest.raises(TypeError):
        Case(24, 16)


def test_dtypes_are_torch_s_own():
    assert PLAIN.but(dtype="bfloat16").torch_dtype is torch.bfloat16
    for name in ("float63", "nn", "tensor", ""):
        with pytest.raises(ValueError, match=f"'{name}' is no torch dtype"):
            as_dtype(name)


def test_equal_cases_keep_their_own_text():
    whole, fraction = (Case(d_in=3, d_out=4, options=(("coeff", value),)) for value in (1, 1.0))
    assert whole == fraction
    assert ("coeff=1-" in whole.id, "coeff=1.0-" in fraction.id) == (True, True)
    assert Case.parse(repr(whole)).id != Case.parse(repr(fraction)).id
