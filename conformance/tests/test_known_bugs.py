"""Every planted bug turns exactly its checks red, with its message; every check is killed by some bug."""

import dataclasses

import pytest

from conformance.certificate import Certificate
from conformance.checks import CHECKS
from conformance.jobs import jobs
from conformance.known_bugs import BUGS, Bug, planted
from conformance.suite_of import suite_of
from conformance.variants import known

SUITES = {variant: suite_of(variant).small for variant in known()}
DRAWN = {"shape sweep"}  # drawn cases see most bugs, too, or not; they are run for those that nothing else sees


def measured(variant: str, *, drawn: bool = True) -> Certificate:
    """Lite as it is now. A new candidate: runs are cached by candidate, and another bug's must not be found again."""
    suite = SUITES[variant]
    candidate = dataclasses.replace(suite.candidate)
    chosen = [job for job in jobs(suite, candidate) if drawn or job.check.name not in DRAWN]
    return Certificate(variant, tuple(m for job in chosen for m in job.measure()))


@pytest.mark.parametrize("bug", BUGS, ids=[bug.id for bug in BUGS])
def test_bug_turns_exactly_its_checks_red(bug: Bug):
    with planted(bug):
        certificate = measured(bug.variant, drawn=bool(DRAWN & bug.red))
    assert certificate.red == bug.red
    assert certificate.verdict == "buggy"
    said = [f"{m.what}: {m.got} | {m.should}" for m in certificate if m.verdict.is_red]
    assert any(bug.message in words for words in said), said[:5]


@pytest.mark.parametrize("variant", known())
def test_without_a_bug_nothing_is_red(variant):
    certificate = measured(variant)
    assert certificate.red == set()
    assert certificate.verdict.startswith("faithful")


def test_every_check_is_killed_by_a_bug():
    assert set(CHECKS) == set().union(*(bug.red for bug in BUGS))


def test_ids_are_unique_and_every_field_is_filled():
    assert len({bug.id for bug in BUGS}) == len(BUGS)
    for bug in BUGS:
        assert all(
            getattr(bug, name) for name in ("description", "effect", "source", "hidden_by", "where", "old", "red", "message")
        )


def test_a_replacement_that_is_not_unique_is_refused():
    bug = next(bug for bug in BUGS if bug.id == "lora-scale-alpha")
    doubled = Bug(**{name: getattr(bug, name) for name in Bug.__slots__} | {"old": "config"})
    with pytest.raises(ValueError, match=r"times in lite\.variants\.lora, should be once"), planted(doubled):
        pass


def test_a_planted_bug_is_gone_afterwards():
    from lite import runtime
    from lite.variant import VARIANTS

    before = VARIANTS["lora"], runtime.undo.__code__
    for name in ("lora-scale-alpha", "detach-requires-grad"):
        with planted(next(bug for bug in BUGS if bug.id == name)):
            pass
    assert (VARIANTS["lora"], runtime.undo.__code__) == before
