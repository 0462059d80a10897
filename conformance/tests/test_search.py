"""The search: what it draws, that it finds what only large, scaled or threaded cases show, and how it ends."""

import dataclasses
import itertools
import json
import re
from collections import Counter

import hypothesis
import pytest
import torch
from hypothesis import given, settings

from conformance import hunt, runs, search_results
from conformance.__main__ import main
from conformance.checks.search import SPLITS, SWEEP, at, cases, everything, octaves
from conformance.known_bugs import Bug, planted
from conformance.search_results import Found
from conformance.suite_of import suite_of
from conformance.terminal import reproduce
from conformance.trial import Trial
from conformance.variants import known
from refs.case import Case

PLAIN = Case(d_in=24, d_out=16, rank=4, alpha=6.0)


def drawn(strategy, examples=400):
    seen = []
    search = hypothesis.seed(0)(given(strategy)(lambda case: seen.append(case)))
    settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))(search)()
    return seen


@pytest.fixture(autouse=True)
def nothing_known():
    """Lite's own layers are cached by the suite: they must be built with a bug, and without it afterwards."""
    runs.forget()
    yield
    runs.forget()


@pytest.mark.parametrize("variant", known())
def test_all_sizes_scales_and_threads_are_drawn(variant):
    suite = suite_of(variant)
    seen = drawn(cases(suite, everything(512)))
    for place in range(3):
        assert {case.scales[place] for case in seen} == {1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3}
    smallest = [suite.fit(case.but(d_in=1, d_out=1, rank=case.rank and 1)) for case in suite.small.cases]  # groups, directions …
    for size in ("d_in", "d_out", *(["rank"] if seen[0].rank else [])):
        assert min(getattr(case, size) for case in seen) == min(getattr(case, size) for case in smallest) <= 4
    assert max(case.d_in for case in seen) > 400
    assert max(case.d_out for case in seen) > 400
    assert {case.threads for case in seen} == {1, 2}
    assert all(case.threads == 1 for case in seen if max(case.d_in, case.d_out) < SPLITS)
    assert all(Case.parse(repr(case)) == case for case in seen)


def test_half_of_the_sizes_are_small_and_none_is_too_large():
    for largest in (1, 2, 40, 100, 512):
        sizes = drawn(octaves(largest))
        assert set(sizes) <= set(range(1, largest + 1))
        assert max(sizes) > largest / 2
    assert 0.3 < sum(size < 16 for size in sizes) / len(sizes) < 0.7


def test_the_default_run_draws_nothing_of_it():
    for case in drawn(cases(suite_of("lora"), SWEEP), examples=100):
        assert (case.scales, case.threads) == ((1.0, 1.0, 1.0), 1)
        assert 2 <= min(case.d_in, case.d_out, case.rank) <= max(case.d_in, case.d_out) <= 40


def last(*variants, **limits):
    return [*hunt.hunt(variants, **({"cases": 60, "largest": 16} | limits))][-1]


def test_the_same_is_found_by_any_number_of_processes():
    one, two = (search_results.to_json(last("ia3", "delora", cases=130, processes=processes)) for processes in (1, 2))
    assert one == two
    other = dataclasses.replace(last("ia3", "delora", cases=130, seed=1), seed=0)
    assert one != search_results.to_json(other)


def test_it_stops_at_the_number_of_cases_and_at_the_time():
    assert 60 <= last("ia3").cases < 60 + hunt.ROUND
    assert last("ia3", minutes=0).cases <= hunt.ROUND
    assert last("ia3").is_complete(["ia3"])
    assert not last("ia3").is_complete(["ia3", "lora"])


def test_it_stops_when_a_whole_round_draws_nothing_new(monkeypatch):
    monkeypatch.setattr(hunt, "searched", lambda unit: hunt.Seen(unit, frozenset([PLAIN]), ()))
    few = last("ia3")
    assert few.cases == 2
    assert not few.is_complete(["ia3"])


def bug(new, old="    s = scale(config)\n"):
    words = dict.fromkeys(("description", "effect", "source", "hidden_by", "message"), "planted")
    return Bug(id="planted", variant="lora", where="lite.variants.lora", old=old, new=new, red=frozenset(), **words)


ONLY = {
    "large layers": ("layer.d_in > 100", lambda case: 100 < case.d_in < 128 and case.d_out == 1),
    "two threads": ("torch.get_num_threads() > 1", lambda case: case.threads == 2),
    "large inputs": ("x.abs().max() > 500", lambda case: case.scales == (1, 1, 1000)),
    "one input": ("layer.d_in == 1", lambda case: case.d_in == 1),
}


@pytest.mark.parametrize(("where", "shown"), ONLY.values(), ids=ONLY)
def test_what_only_some_cases_show_is_found_shrunk_and_run_again(where, shown, capsys):
    with planted(bug(f"    s = scale(config) * (1 + 1e-9 * bool({where}))\n")):
        seen = last("lora", cases=400, largest=512)
        alarms = [m for m in seen.alarms if m.reference == "closed form"]
        assert len(alarms) == 1
        case = Case.parse(alarms[0].case)
        assert shown(case)
        assert (case.seed, case.mode, case.weight, case.options) == (
            0,
            (alarms[0].what == "output" and case.mode) or "train",
            "random",
            (),
        )
        command = reproduce(alarms[0])
        assert main(["reproduce", re.fullmatch('python -m conformance reproduce "(.*)"', command)[1]]) == 1
    assert alarms[0].what in capsys.readouterr().out


def test_what_gave_an_alarm_is_searched_no_further_and_others_are():
    with planted(bug("    s = scale(config) * 2\n")):
        seen = last("lora", "ia3", cases=150)
    by_variant = {}
    for entry in seen.found:
        if not entry.missing:  # an author's cases are recorded, none is drawn
            by_variant.setdefault(entry.variant, []).append(entry)
    assert all(len(entry.alarms) == 1 for entry in by_variant["lora"])
    assert all(not entry.alarms and entry.cases > hunt.ROUND for entry in by_variant["ia3"])


def test_what_other_processes_did_after_an_alarm_does_not_count(monkeypatch):
    def three_rounds(units, processes):
        yield from map(hunt.searched, list(itertools.islice(units, 9)))

    monkeypatch.setattr(hunt, "_in_order", three_rounds)
    with planted(bug("    s = scale(config) * 2\n")):
        assert [len(entry.alarms) for entry in last("lora", cases=10**6).found] == [
            1,
            1,
            0,
        ]  # the last is an author's, for which nothing is drawn


def test_an_exception_of_the_candidate_is_an_alarm_with_its_smallest_case():
    with planted(bug("    s = scale(config) / (layer.d_out < 9)\n")):
        alarm = last("lora", cases=100).alarms[0]
    assert (str(alarm.verdict), alarm.what, alarm.should) == ("error", "run", "no exception")
    assert alarm.got.startswith("ZeroDivisionError: ")
    assert (Case.parse(alarm.case).d_in, Case.parse(alarm.case).d_out) == (1, 9)


@pytest.fixture
def interrupted(monkeypatch):
    """After three rounds somebody loses patience."""
    rounds = iter(range(3))

    def searched(unit, really=hunt.searched):
        if next(rounds, None) is None:
            raise KeyboardInterrupt
        return really(unit)

    monkeypatch.setattr(hunt, "searched", searched)


def test_an_interrupt_keeps_what_was_found(interrupted, tmp_path, capsys):
    arguments = ["search", "ia3", "--cases", "500", "--largest", "16", "--jobs", "1", "--run-folder", str(tmp_path)]
    assert main(arguments) == 130
    said = capsys.readouterr().out
    kept = search_results.read(tmp_path)
    assert 50 < kept.cases < 3 * hunt.ROUND + 1
    assert said.startswith(f"{kept.cases} of 500 cases, seed 0, sizes to 16, 0 alarms\n")
    assert f"    {reproduce(kept.found[0].worst)}\n" in said  # on one line, to be copied
    assert (tmp_path / ".gitignore").read_text() == "*\n"


def test_an_alarm_is_the_exit_status_and_is_printed_in_full(tmp_path, capsys):
    with planted(bug("    s = scale(config) * 2\n")):
        assert main(["search", "lora", "--cases", "30", "--largest", "9", "--jobs", "1", "--run-folder", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "2 alarms" in said.partition("\n")[0]
    assert "lora: shape sweep of lite against closed form\n" in said
    assert "off by" in said


def test_findings_are_read_as_they_were_written_and_damage_is_told(tmp_path):
    found = last("ia3")
    search_results.write(tmp_path, found)
    again = search_results.read(tmp_path)
    assert search_results.to_json(again) == search_results.to_json(found)
    assert again.cases == found.cases
    assert json.loads((tmp_path / "search.json").read_text())["machine"]["torch threads"] == "1 and 2"
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(ValueError, match=r"search\.json is damaged .* make it again with: nox -s search"):
        search_results.read(tmp_path)
    assert search_results.read(tmp_path / "nowhere") is None


def test_a_case_is_counted_once_and_what_is_capped_is_an_alarm():
    one = last("ia3").found[0].closest[0]
    capped = type(one).from_dict(one.to_dict() | {"verdict": "capped", "error": 3.0, "bound": 2.0})
    entry = Found("ia3", "peft", "")
    entry.add([PLAIN, PLAIN.but(d_in=1)], [one])
    entry.add([PLAIN, PLAIN.but(threads=2)], [capped])
    assert (entry.cases, entry.edges, entry.threads) == (3, 1, 1)
    assert (entry.closest, entry.alarms, entry.worst, entry.closeness) == ([one], [capped], capped, "alarm")


def test_a_run_has_as_many_threads_as_its_case():
    class Watched(type(suite_of("lora").candidate)):
        def build(self, case, problem):
            subject = super().build(case, problem)
            at.append(torch.get_num_threads())
            return dataclasses.replace(subject, call=lambda x: (at.append(torch.get_num_threads()), subject.call(x))[1])

    at, formula, before = [], suite_of("lora").formula, torch.get_num_threads()
    for threads in (1, 2):
        runs.at_values(Watched("lora", formula), PLAIN.but(threads=threads), formula)
        assert (at, torch.get_num_threads()) == ([threads, threads], before)
        at.clear()


@pytest.mark.parametrize("arguments", [["--cases", "0"], ["--jobs", "0"], ["--largest", "-3"]])
def test_unusable_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["search", *arguments])
    assert left.value.code == 2
    assert f"should be at least 1, got {arguments[1]}" in capsys.readouterr().err


def test_a_candidate_on_two_threads_is_compared_with_references_on_one_and_on_two():
    suite = suite_of("lora")
    reference = suite.references[0]
    trial = Trial(suite=suite, check="shape sweep", candidate=suite.candidate, reference=reference)
    for threads in (1, 2):
        assert Counter(m.what for m in at(trial, PLAIN.but(threads=threads))) == dict.fromkeys(
            ("output", "grad.x", "grad.lora_A", "grad.lora_B"), threads
        )
