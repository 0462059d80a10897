"""What measurements add up to, and that they survive a file."""

import itertools
import json
import math

import pytest

from conformance.verdict import ORDER, Measurement, Verdict, cells, of_variant, peak, rounded_up, worst

BEST_TO_WORST = ["not applicable", "identical", "equivalent", "capped", "diverges", "untested", "fails", "error"]
FIELDS = {"variant": "lora", "candidate": "lite", "reference": "peft", "version": "peft 1", "check": "forward"}


def measured(verdict, **more):
    return Measurement(**FIELDS | {"verdict": Verdict(verdict)} | more)


def test_the_order():
    assert [str(verdict) for verdict in ORDER] == BEST_TO_WORST
    assert [verdict for verdict in BEST_TO_WORST if Verdict(verdict).is_red] == ["fails", "error"]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(BEST_TO_WORST, 2)))
def test_the_worst_of_two_wins_in_either_order_and_however_often_the_better_occurs(one, other):
    better, worse = measured(one), measured(other)
    assert worst([better, worse]) == worst([worse, better]) == worst([better] * 9 + [worse] + [better] * 9) == other


@pytest.mark.parametrize("verdict", BEST_TO_WORST)
def test_one_measurement_is_its_own_cell(verdict):
    assert worst([measured(verdict)]) == verdict


def test_not_applicable_stays_out():
    excused = measured("not applicable", reason="no such option")
    assert worst([excused, measured("identical")]) == "identical"
    assert worst([excused, excused]) == "not applicable"


def test_without_evidence_a_cell_is_untested():
    shown = measured("not applicable", evidence=False)
    assert worst([]) == "untested"
    assert worst([shown]) == "untested"
    assert worst([shown, measured("not applicable")]) == "untested"
    assert worst([shown, measured("identical")]) == "identical"
    assert worst([shown, measured("fails")]) == "fails"
    assert worst([measured("identical", evidence=False)]) == "untested"


def test_a_generator_will_do():
    assert worst(m for m in [measured("identical"), measured("fails")]) == "fails"
    assert worst(m for m in [measured("not applicable")]) == "not applicable"


def test_cells_group_by_check_and_reference_in_the_order_of_their_first_measurement():
    found = cells(
        [
            measured("identical", check="init", reference="peft"),
            measured("identical", check="forward", reference="closed form"),
            measured("fails", check="init", reference="closed form"),
            measured("equivalent", check="init", reference="peft"),
            measured("not applicable", check="forward", reference="closed form"),
        ]
    )
    assert list(found.items()) == [
        (("init", "peft"), "equivalent"),
        (("forward", "closed form"), "identical"),
        (("init", "closed form"), "fails"),
    ]
    assert cells([]) == {}


def test_a_red_cell_shows_what_is_furthest_beyond_its_bound():
    larger, further = measured("fails", error=9.0, bound=8.0, unit="u64"), measured("fails", error=3.0, bound=0.5, unit="u64")
    worse_but_green = measured("diverges", error=99.0, bound=1.0, unit="u64")
    assert peak([larger, further, worse_but_green]) is further
    assert peak([further, measured("fails", error=7.0)]).error == 7  # without a bound, the error itself
    assert peak(m for m in [worse_but_green, larger]) is larger


def test_a_green_cell_shows_the_largest_error_in_the_unit_of_the_one_closest_to_its_bound():
    small, close, far = (
        measured("equivalent", error=error, bound=bound, unit=unit)
        for error, bound, unit in ((40.0, 100.0, "u64"), (2.0, 2.5, "u32"), (3.0, 300.0, "u32"))
    )
    excused = measured("not applicable", error=50.0, bound=1.0, unit="u32")
    no_evidence = measured("equivalent", error=60.0, bound=1.0, unit="u32", evidence=False)
    assert peak([small, close, far, excused, no_evidence]) is far
    assert peak([excused, no_evidence]) is no_evidence
    assert peak([small, excused]) is small


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["identical"], "faithful"),
        (["equivalent", "identical", "not applicable"], "faithful"),
        (["diverges"], "faithful with documented divergence"),
        (["identical", "diverges", "not applicable"], "faithful with documented divergence"),
        (["capped"], "partial"),
        (["identical", "untested"], "partial"),
        (["diverges", "untested"], "partial"),
        (["diverges", "capped"], "partial"),
        (["not applicable"], "partial"),
        ([], "partial"),
        (["fails"], "buggy"),
        (["error"], "buggy"),
        (["identical", "untested", "capped", "diverges", "fails"], "buggy"),
        (["identical", "error", "not applicable"], "buggy"),
    ],
)
def test_of_a_variant(verdicts, expected):
    assert of_variant(Verdict(verdict) for verdict in verdicts) == expected
    assert of_variant([Verdict(verdict) for verdict in reversed(verdicts)]) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["identical"], "partial: a narrowed run"),
        (["diverges", "equivalent"], "partial: a narrowed run"),
        ([], "partial: a narrowed run"),
        (["identical", "fails"], "buggy"),
        (["error"], "buggy"),
    ],
)
def test_a_narrowed_run_is_never_faithful(verdicts, expected):
    assert of_variant(map(Verdict, verdicts), complete=False) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["identical"], "faithful, doc gap"),
        (["diverges", "equivalent"], "faithful, doc gap"),
        (["identical", "untested"], "partial"),
        ([], "partial"),
        (["identical", "fails"], "buggy"),
    ],
)
def test_a_doc_gap_is_less_than_faithful_and_more_than_partial(verdicts, expected):
    assert of_variant(map(Verdict, verdicts), doc_gaps=["option `r` is unsaid"]) == expected
    assert of_variant(map(Verdict, verdicts), doc_gaps=[]) != "faithful, doc gap"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "-0"),
        (1, "1"),
        (1.0001, "2"),
        (3, "4"),
        (8, "8"),
        (8.000000000000002, "16"),
        (0.5, "0.5"),
        (0.3, "0.5"),
        (2.0**-4, "0.0625"),
        (2.0**-5, "2^-5"),
        (2.0**-5 * 1.5, "0.0625"),
        (1e-16, "2^-53"),
        (100_000, "131072"),
        (2.0**19, "524288"),
        (600_000, "1048576"),
        (2.0**20, "1048576"),
        (2.0**20 + 1, "2^21"),
        (1e300, "2^997"),
        (5e-324, "2^-1074"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_rounded_up_to_a_power_of_two(value, text):
    assert rounded_up(value) == text


@pytest.mark.parametrize("exponent", [-1000, -30, -4, 0, 3, 17, 40, 500])
def test_rounded_up_is_never_below(exponent):
    power = 2.0**exponent
    above, below = math.nextafter(power, math.inf), math.nextafter(power, 0)
    value = {
        at: 2.0 ** float(text[2:]) if (text := rounded_up(at)).startswith("2^") else float(text) for at in (below, power, above)
    }
    assert value[below] == value[power] == power
    assert value[above] == 2 * power


FULL = measured(
    "diverges", case="Case(d_in=2, d_out=3)", case_id="2x3", what="grad.lora_A", error=3.5, bound=8.0, unit="u64",
    got="off by 4 u64 – κ", should="„at most“ 8", reason="line\nbreak\u2028 and \x85", evidence=False,
)  # fmt: skip


@pytest.mark.parametrize("verdict", BEST_TO_WORST)
@pytest.mark.parametrize("error", [0.0, 0.1, 2.0**-1074, math.inf])
def test_a_measurement_survives_json(verdict, error):
    for one in (measured(verdict), measured(verdict, error=error, what="output")):
        again = Measurement.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again == one
        assert type(again.verdict) is Verdict


def test_every_field_survives_json():
    values = FULL.to_dict()
    assert all(type(value) in (str, float, bool) for value in values.values())  # xdist carries nothing else
    assert set(values) == set(Measurement.__slots__)
    assert Measurement.from_dict(json.loads(json.dumps(values, ensure_ascii=False))) == FULL


def test_what_is_no_measurement_is_refused():
    with pytest.raises(TypeError):
        Measurement.from_dict(FULL.to_dict() | {"colour": "red"})
    with pytest.raises(ValueError, match="good"):
        Measurement.from_dict(FULL.to_dict() | {"verdict": "good"})
