"""The bugs found upstream are still there, in the size that the page tells, and the page is what the table says."""

import ast
import dataclasses
import math
from importlib import metadata
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.findings import CHOICES, FINDINGS, RELEASES
from conformance.findings.measure import chosen, last_number, report, seen
from conformance.findings.table import SCRIPTS
from conformance.jobs import jobs
from conformance.known_bugs import BUGS
from conformance.report import upstream
from conformance.suite_of import suite_of
from conformance.terminal import cell_id
from conformance.variants import known

REPORTS = Path(__file__).parents[2] / "reports"
QUICK = next(finding for finding in FINDINGS if finding.id == "loralib-load-merged")
WITH_CELL = [finding for finding in FINDINGS if finding.cell]


def named(findings):
    return pytest.mark.parametrize("finding", findings, ids=lambda finding: finding.id)


def up(size):
    """To a power of two."""
    return size if size == 0 or math.isinf(size) else 2.0 ** math.ceil(math.log2(size))


@named(FINDINGS)
def test_a_finding_is_there_in_the_size_that_the_page_tells(finding):
    measured = seen(finding)
    if measured.outcome.startswith("untested"):
        pytest.skip(f"{measured.outcome}: nox -s third-party runs it")
    assert (measured.outcome, measured.is_red) == ("still there", False)
    if metadata.version(finding.library) == RELEASES[finding.library][-1]:
        assert up(measured.size) == finding.sizes[-1]


@named(FINDINGS)
def test_sizes_are_powers_of_two_one_for_each_release(finding):
    assert all(size == up(size) for size in finding.sizes if size is not None)
    assert len(finding.sizes) == len(RELEASES[finding.library])


@pytest.mark.parametrize(
    ("expected", "outcome"), [((0.0, 0.1), "another size"), ((5.0, 6.0), "fixed?"), ((math.inf, math.inf), "fixed?")]
)
def test_a_size_out_of_its_range_is_reported_and_red(capsys, expected, outcome):
    other = dataclasses.replace(QUICK, expected=expected)
    assert (seen(other).outcome, seen(other).is_red) == (outcome, True)
    assert report([other]) == 1
    assert outcome in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("print('0.5 off')", "ValueError: loralib_load_merged.py should print a number last, and printed '0.5 off'"),
        ("", "should print a number last, and printed ''"),
        ("import peft; peft.LoraConfig(of=1)", "TypeError: "),
    ],
)
def test_a_script_that_fails_has_no_size_and_is_red(tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr("conformance.findings.table.SCRIPTS", tmp_path)
    QUICK.script.write_text(text)
    measured = seen(QUICK)
    assert problem in measured.outcome
    assert measured.is_red


def test_without_the_library_a_finding_is_untested_and_not_red(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("conformance.findings.measure.metadata.version", missing)
    measured = seen(QUICK)
    assert (measured.outcome, measured.is_red) == ("untested: loralib is not installed", False)


def test_a_script_leaves_the_generator_as_it_was():
    import torch

    before = torch.get_rng_state()
    assert last_number(QUICK.script) == last_number(QUICK.script)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_script_has_its_entry():
    assert sorted(SCRIPTS.glob("*.py")) == sorted(finding.script for finding in FINDINGS)
    assert len({finding.id for finding in FINDINGS}) == len(FINDINGS)


@named(FINDINGS)
def test_scripts_are_for_strangers(finding):
    tree = ast.parse(finding.script.read_text())
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {
        "torch",
        "peft",
        "transformers",
        "loralib",
        "torchtune",
        "lycoris",
        "adapters",
        "bitsandbytes",
        "contextlib",
        "copy",
        "tempfile",
        "importlib",
        "subprocess",
        "sys",
        "warnings",
    }
    assert {module.partition(".")[0] for module in modules} <= outside
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    assert not {name for name in names if name.startswith("_")} - {"__init__"}
    assert "manual_seed" in names or "torch" not in modules
    assert ast.unparse(tree.body[-1]).startswith("print(")
    assert 10 <= len(finding.script.read_text().splitlines()) <= 35
    assert finding.paragraphs[0].endswith(".")


@named(WITH_CELL)
def test_the_cell_is_there_and_says_what_the_table_says_of_it(finding):
    variant, _, cell = finding.cell.partition("/")
    suite = suite_of(variant)
    check = next(job.check.name for job in jobs(suite) if job.id == cell)
    for id_ in finding.divergences:
        (own,) = {
            (d.check, d.reference)
            for name in known()
            for d in suite_of(name).divergences
            if d.id == id_ and "–" in d.reference and "author" not in d.reference
        }
        assert cell_id(own[1], own[0]) == cell
    if finding.divergences:
        assert finding.divergences[0] in {d.id for d in suite.divergences}
    if finding.planted:
        (bug,) = [bug for bug in BUGS if bug.id == finding.planted]
        assert bug.variant == variant
        assert check in bug.red
    assert finding.says in (REPORTS / f"{variant}.md").read_text()


def test_every_finding_without_a_cell_says_why_or_has_a_third_party_s_page():
    assert all(bool(finding.says) is not bool(finding.page) for finding in FINDINGS if not finding.cell)
    assert not [finding.id for finding in FINDINGS if finding.cell and finding.page]


def test_every_divergence_of_a_suite_is_a_bug_or_a_choice():
    bugs = {id_ for finding in FINDINGS for id_ in finding.divergences}
    divergences = {d.id for name in known() for d in suite_of(name).divergences if "author" not in d.reference}
    assert divergences == bugs | {id_ for id_ in CHOICES if " " not in id_}
    assert not bugs & set(CHOICES)


def test_the_committed_page_is_what_the_table_says():
    page = upstream.page()
    assert (REPORTS / "upstream.md").read_text() == page
    for finding in FINDINGS:
        assert f"](#{finding.id})" in page
        assert f"\n## {finding.id}\n" in page
    assert "(upstream.md)" in (REPORTS / "README.md").read_text()
    assert "(reports/upstream.md)" in (REPORTS.parent / "README.md").read_text()


def test_the_command_narrows_and_refuses_an_unknown_name(capsys):
    assert main(["findings", QUICK.id]) == 0
    out = capsys.readouterr().out
    assert QUICK.id in out
    assert "still there" in out
    assert FINDINGS[0].id not in out
    assert main(["findings", "pisa"]) == 2
    assert f"unknown finding pisa; known: {FINDINGS[0].id}, " in capsys.readouterr().err
    assert chosen([]) == FINDINGS
