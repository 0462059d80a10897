"""What `nox -s mutation` makes of mutmut's results: it can fail in every way it should."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from conformance.tests import mutation
from conformance.tests.mutation import Mutant, equivalents, report, score

FILE = "conformance/policy.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def reported(monkeypatch):
    """What `report` says of a number of killed mutants, survivors by the text they changed, and explained ones."""

    def run(killed=0, survived=(), explained=(), other=()):
        found = {f"killed {n}": "killed" for n in range(killed)} | dict.fromkeys(survived, "survived") | dict(other)
        monkeypatch.setattr(mutation, "outcomes", lambda file: found)
        monkeypatch.setattr(mutation, "survivor", lambda file, name: Mutant(file, "f", "old", name, f"-old\n+{name}"))
        monkeypatch.setattr(mutation, "equivalents", lambda: {(FILE, "f", "old", name): "no difference" for name in explained})
        console = Console(file=io.StringIO(), width=200)
        return report([FILE], console), console.file.getvalue()

    return run


def test_all_killed_or_explained_is_well(reported):
    ok, text = reported(killed=3, survived=["new"], explained=["new"])
    assert ok
    assert "100.0 % killed, should be at least 95 %; 0 unexplained" in text


def test_a_survivor_is_shown_with_its_diff_and_too_many_fail(reported):
    ok, text = reported(killed=19, survived=["new"])
    assert ok
    assert "survived, unexplained: f" in text
    assert "-old\n+new" in text
    ok, text = reported(killed=18, survived=["new"])
    assert not ok
    assert "94.7 % killed" in text


def test_an_explanation_excuses_only_its_own_mutant(reported):
    assert not reported(killed=1, survived=["new", "newer"], explained=["new"])[0]


def test_an_explanation_of_a_mutant_that_does_not_survive_is_stale(reported):
    ok, text = reported(killed=100, explained=["gone"])
    assert not ok
    assert "stale: " in text
    assert f"{FILE} | f | old | gone" in text


def test_a_mutant_without_result_is_no_kill(reported):
    ok, text = reported(killed=1000, other={"odd": "exit 255"})
    assert not ok
    assert "no result: odd: exit 255" in text


def test_timeouts_are_kills_and_nothing_is_everything():
    assert score({"mutants": 4, "killed": 1, "timeout": 2, "equivalent": 1}) == 1
    assert score({"mutants": 4, "killed": 1, "timeout": 1, "equivalent": 0}) == 0.5
    assert score({"mutants": 0, "killed": 0, "timeout": 0, "equivalent": 0}) == 1


def test_explanations_speak_of_what_is_there():
    for file, _, old, new in equivalents():
        source = [line.strip() for line in (ROOT / file).read_text().splitlines()]
        assert set(old.splitlines()) <= set(source), old
        assert old != new
    assert all(equivalents().values())


def test_every_method_and_every_test_file_is_there():
    assert {f"lite/variants/{path.name}" for path in (ROOT / "lite" / "variants").glob("[!_]*.py")} < mutation.TESTS.keys()
    paths = [*mutation.TESTS, *(word for tests in mutation.TESTS.values() for word in tests if "/" in word)]
    assert not [path for path in paths if not (ROOT / path).exists()]
