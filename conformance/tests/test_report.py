"""The committed pages: rendered twice they are the same, and the check sees what must not differ."""

import dataclasses
import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import lite
from conformance import floor_run, run_folder, search_results
from conformance.certificate import Certificate
from conformance.documentation import gaps, parse
from conformance.floor import Floor
from conformance.jobs import jobs
from conformance.known_bugs import BUGS, planted
from conformance.report import history
from conformance.report import render as report
from conformance.report.summary import Summary
from conformance.search_results import Found, Searched
from conformance.suite_of import suite_of
from conformance.suites.lite_layers import LiteLayer
from conformance.suites.test_delora import SUITE as DELORA
from conformance.terminal import reproduce
from conformance.variants import known
from conformance.verdict import Verdict, rounded_up

ROOT = Path(__file__).parents[2]


VARIANTS = ["corda", "delora", "dora", "lora"]
QUICK = {"mapping", "init", "forward", "identity", "bad input"}  # and all checks of the one that most tests change


@pytest.fixture(scope="module", autouse=True)
def few_variants():
    """As if there were no others: pages are drawn again and again here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("conformance.report.render"), "known", lambda: VARIANTS)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small full run: of each cell, whatever it measures on the first two cases."""
    folder = tmp_path_factory.mktemp("run")
    certificates = []
    for name in VARIANTS:
        whole = suite_of(name)
        others = tuple(reference for reference in whole.references if not reference.is_fixed)  # recorded on other cases
        said = tuple(d for d in whole.divergences if "author" not in d.reference)
        small = replace(whole, cases=whole.cases[:2], references=others, divergences=said)
        chosen = [job for job in jobs(small) if name == "delora" or job.check.name in QUICK]
        certificates.append(Certificate(name, tuple(m for job in chosen for m in job.measure())))
    assert [c.verdict for c in certificates] == ["faithful with documented divergence", *["faithful"] * 3]
    run_folder.write(folder, certificates)
    seen = [Floor("", "peft", "float64", "x", kind, 1e-14, 1.0) for kind in ("scale", "element")]
    floor_run.write(folder, {name: [replace(floor, variant=name) for floor in seen] for name in VARIANTS})
    return folder


@pytest.fixture
def checkout(run, tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    report.render(run, tmp_path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewritten(run, folder, change):
    """The run with one certificate changed."""
    certificates = run_folder.read(run)
    run_folder.write(folder, [change(c) if c.variant == "delora" else c for c in certificates])
    floor_run.write(folder, floor_run.read(run))
    return folder


def test_rendering_twice_changes_nothing_and_the_check_passes_twice(run, checkout):
    before = contents(checkout)
    report.render(run, checkout)
    assert contents(checkout) == before
    assert report.check(run, checkout) == []
    assert report.check(run, checkout) == []
    assert contents(checkout) == before


def test_every_variant_has_its_page_plot_and_badges(checkout):
    for name in VARIANTS:
        verdict = "faithful with documented divergence" if name == "corda" else "faithful"
        page = (checkout / "reports" / f"{name}.md").read_text()
        titles = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
        assert titles == [
            "Formulas", "References against each other", "Verdict table", "Parameters", "Divergences", "What to fix next",
            "Known bugs that this suite catches", "Detection floor", "Errors and bounds", "Reproduce",
        ]  # fmt: skip
        for link in re.findall(r"\]\((?!#)([^)]*)\)", page):
            assert (checkout / "reports" / link).is_file(), link
        for anchor in re.findall(r"\]\(#([^)]*)\)", page):
            assert f'<a id="{anchor}"></a>' in page
        badge = json.loads((checkout / "reports" / "badges" / f"{name}.json").read_text())
        assert set(badge) == {"schemaVersion", "label", "message", "color"}
        assert (badge["schemaVersion"], badge["label"], badge["message"]) == (1, name, verdict)
        assert (checkout / "reports" / "badges" / f"{name}.svg").read_text().startswith("<?xml")
        size = len(page.encode()) + (checkout / "reports" / "plots" / f"{name}.svg").stat().st_size
        assert size < 200_000
    index = (checkout / "reports" / "README.md").read_text()
    assert all(f"| [{name}]({name}.md) | – → faithful" in index for name in VARIANTS)
    assert all(f"| [{name}](reports/{name}.md) |" in (checkout / "README.md").read_text() for name in VARIANTS)


def test_pages_carry_no_date_and_no_path_of_this_machine(checkout):
    for path in (checkout / "reports").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(ROOT) not in text
            assert not re.search(r"20\d\d-\d\d-\d\d", text), path


def broken(certificate):
    red = replace(certificate.measurements[-1], verdict=Verdict.FAILS, got="something else", should="the model as before")
    return replace(certificate, measurements=(*certificate.measurements[:-1], red))


def gapped(certificate):
    return replace(certificate, doc_gaps=("option `r` is not in the config's docstring",))


def diverging(certificate):
    known_difference = replace(certificate.measurements[-1], verdict=Verdict.DIVERGES, reason="D1: upstream rounds (link)")
    return replace(certificate, measurements=(*certificate.measurements[:-1], known_difference))


@pytest.mark.parametrize(
    ("change", "verdict", "difference"),
    [
        (broken, "buggy", "delora, bad input against itself: committed 'equivalent', now 'fails'"),
        (gapped, "faithful, doc gap", 'delora, doc gaps: committed [], now ["option `r` is not in the config\'s docstring"]'),
        (diverging, "faithful with documented divergence", "delora, divergences: committed [], now ['D1']"),
    ],
)
def test_the_check_sees_a_verdict_a_divergence_and_a_doc_gap(run, checkout, tmp_path_factory, change, verdict, difference):
    changed = rewritten(run, tmp_path_factory.mktemp("changed"), change)
    differences = report.check(changed, checkout)
    assert difference in differences
    assert f"delora, verdict: committed 'faithful', now {verdict!r}" in differences
    for path in ("README.md", "reports/README.md", "reports/delora.md", "reports/history.md", "reports/badges/delora.json"):
        assert f"{path} is not what this run renders" in differences
    report.render(changed, checkout)
    assert report.check(changed, checkout) == []
    assert f"**{verdict}**" in (checkout / "reports" / "delora.md").read_text()
    assert f"| [delora](delora.md) | faithful → {verdict} |" in (checkout / "reports" / "README.md").read_text()
    assert history.verdicts((checkout / "reports" / "history.md").read_text(), "delora") == ["faithful", verdict]


def test_a_red_cell_is_the_first_thing_to_fix_and_tagged_a_bug(run, checkout, tmp_path_factory):
    report.render(rewritten(run, tmp_path_factory.mktemp("red"), lambda c: gapped(broken(c))), checkout)
    page = (checkout / "reports" / "delora.md").read_text()
    assert "\n1. **bad input** against itself: fails ([how to repeat it](#bad-input-itself))\n2. doc gap: option `r`" in page
    assert "| *bug* | bad input against itself |" in page


def replaced(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new))


DAMAGES = {
    "reports/badges/dora.json": replaced("faithful", "perfect"),
    "reports/badges/dora.svg": replaced("faithful", "buggy"),
    "reports/dora.md": replaced("Nothing is open.", "Everything is open."),
    "reports/lora.md": replaced("| mapping | [identical]", "| mapping | [fails]"),
    "reports/delora.md": Path.unlink,
    "reports/README.md": replaced("– → faithful", "– → buggy"),
    "reports/history.md": replaced("| dora | faithful |", "| dora | buggy |"),
    "reports/plots/dora.svg": lambda path: path.write_text(""),
    "README.md": replaced("| [dora](reports/dora.md) |", "| [dora](reports/dora.md), really |"),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.items(), ids=DAMAGES)
def test_the_check_sees_whatever_was_edited_or_deleted(run, checkout, name, damage):
    before = contents(checkout)
    damage(checkout / name)
    assert contents(checkout) != before
    assert f"{name} is not what this run renders" in report.check(run, checkout)


def test_the_check_ignores_what_differs_between_machines(run, checkout):
    page = checkout / "reports" / "lora.md"
    page.write_text(
        re.sub(r"≤ [\d.]+ u64", "≤ 3 u64", page.read_text()).replace("[identical](", "[equivalent ≤ 1 u64](").replace("AMD", "ARM")
    )
    assert report.check(run, checkout) == []


def test_the_check_sees_a_missing_folder_and_a_stranger_in_it(run, checkout):
    (checkout / "reports" / "stranger.md").write_text("# Stranger\n")
    assert report.check(run, checkout) == ["reports/stranger.md belongs to no variant"]
    shutil.rmtree(checkout / "reports")
    assert len(report.check(run, checkout)) > 3 * len(VARIANTS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "[]"),
        ("run.json", "{}"),
        ("measurements.jsonl", ""),
        ("measurements.jsonl", "{}\n"),
        ("measurements.jsonl", "3\n"),
    ],
)
def test_a_damaged_run_is_refused_and_nothing_is_written(run, checkout, tmp_path_factory, name, text):
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copytree(run, damaged, dirs_exist_ok=True)
    (damaged / name).write_text(text)
    before = contents(checkout)
    for use in (report.render, report.check):
        with pytest.raises(ValueError, match=r"holds a damaged run .* make it again with: nox -s conformance"):
            use(damaged, checkout)
    assert contents(checkout) == before


def test_a_run_that_lost_measurements_is_damaged(run, checkout, tmp_path_factory):
    damaged = tmp_path_factory.mktemp("cut")
    shutil.copytree(run, damaged, dirs_exist_ok=True)
    lines = (damaged / "measurements.jsonl").read_text().splitlines(keepends=True)
    (damaged / "measurements.jsonl").write_text("".join(lines[:-5]))
    with pytest.raises(ValueError, match=f"{VARIANTS[-1]} should have"):
        report.render(damaged, checkout)


def test_a_narrowed_run_and_a_missing_run_are_refused(run, checkout, tmp_path, tmp_path_factory):
    before = contents(checkout)
    narrowed = rewritten(run, tmp_path_factory.mktemp("narrowed"), lambda c: replace(c, complete=False))
    with pytest.raises(ValueError, match=rf"narrowed run \(delora not run in full\); pages need all of: {', '.join(VARIANTS)}"):
        report.render(narrowed, checkout)
    with pytest.raises(FileNotFoundError, match="holds no run; make one with: nox -s conformance"):
        report.render(tmp_path_factory.mktemp("nothing"), checkout)
    assert contents(checkout) == before


def test_a_readme_without_markers_is_refused(run, tmp_path):
    (tmp_path / "README.md").write_text("# Something\n")
    with pytest.raises(ValueError, match="put <!-- verdicts --> and <!-- /verdicts -->"):
        report.render(run, tmp_path)
    assert not (tmp_path / "reports").exists()


def test_a_planted_bug_shows_in_the_plotted_numbers(run):
    certificates = run_folder.read(run)
    plain = Summary(next(c for c in certificates if c.variant == "delora"))
    from conformance import certify

    with planted(next(bug for bug in BUGS if bug.id == "delora-sign")):
        wrong = Summary(certify(LiteLayer("delora", DELORA.formula), "delora", checks=["forward"]))
    assert float(plain.worst_in("u64")) < 2**8
    assert wrong.worst_in("u64").startswith("2^5")


HEADER = """Title: one line.

y = x
Identity at init: always.
Departures: D1, none other.
Sources: a paper.
"""


def test_doc_gaps_are_found_in_header_docstring_and_readme(tmp_path):
    complete = parse(HEADER, "here", "A config.\n\n    r: rank.\n    alpha: scale.\n", ["r", "alpha"])
    readme = tmp_path / "README.md"
    readme.write_text("| `mine` | `A` |\n")
    assert (complete.title, complete.equation, complete.sections["Departures"]) == ("Title: one line.", "y = x", "D1, none other.")
    assert gaps("mine", complete, ["D1"], readme) == []
    assert gaps("mine", complete, ["D1"], tmp_path / "none.md") == []
    assert gaps("other", complete, ["D2"], readme) == [
        "divergence D2 is not in the header",
        "README's table of variants has no row `other`",
    ]
    short = parse(HEADER.replace("Sources", "From"), "here", "A config.\n\n    r: rank.\n", ["r", "alpha"])
    assert gaps("mine", short, [], readme) == [
        "the header has no paragraph `Sources:`",
        "option `alpha` is not in the config's docstring",
    ]


@pytest.mark.parametrize("name", known())
def test_lites_own_documentation_has_no_gap(name):
    suite = suite_of(name)
    assert gaps(name, suite.candidate.documentation, [d.id for d in suite.divergences]) == []
    own = {option.name for option in dataclasses.fields(lite.VARIANTS[name].config)} - {
        f.name for f in dataclasses.fields(lite.Config)
    }
    assert set(suite.candidate.documentation.options) == own


@pytest.fixture
def searched(run, tmp_path_factory):
    """The run beside a search; a function that writes another."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copytree(run, folder, dirs_exist_ok=True)
    certificates = run_folder.read(run)
    machine = run_folder.machine()
    measured = {c.variant: [m for m in c if m.unit == "u64" and m.error] for c in certificates}
    found = [Found(name, "peft", "peft 0", cases=30, edges=3, closest=measured[name][:2]) for name in VARIANTS]

    def write(**changes):
        search_results.write(folder, replace(Searched(5, 512, 100, tuple(found), machine), **changes))
        return folder

    return write


def test_a_whole_search_has_its_page_and_keeps_it_until_the_next(run, checkout, searched):
    assert not (checkout / "reports" / "search.md").exists()
    report.render(searched(), checkout)
    page = (checkout / "reports" / "search.md").read_text()
    assert "**120 cases, 0 alarms.** 12 cases have a size or rank of one" in page
    assert "`nox -s search -- --cases 100 --largest 512 --seed 5`" in page
    closest = search_results.read(checkout / "reports").found[1].worst
    assert closest.variant == "delora"
    assert f"| [delora](delora.md) | peft | peft 0 | 30 | 3 | 0 | ≤ {rounded_up(closest.ratio)} | {closest.what} |" in page
    assert f"- `{reproduce(closest)}`" in page
    assert "[Search](search.md): 120 generated cases, 0 alarms." in (checkout / "reports" / "README.md").read_text()
    before = contents(checkout)
    assert report.check(run, checkout) == []
    report.render(run, checkout)  # a run without a search
    assert contents(checkout) == before


def test_a_search_that_was_cut_short_or_narrowed_is_not_taken_over(run, checkout, searched):
    before = contents(checkout)
    for changes in ({"asked": 121}, {"found": ()}):
        report.render(searched(**changes), checkout)
        assert contents(checkout) == before


def test_an_alarm_is_on_the_page_with_both_sides(checkout, searched):
    alarm = replace(
        next(iter(search_results.read(searched()).found)).worst, got="off by 2^20 u64", should="at most 8 u64", error=9.0, bound=1.0
    )
    found = [Found(name, "peft", "", cases=30, alarms=[alarm] if name == "lora" else []) for name in VARIANTS]
    report.render(searched(found=tuple(found)), checkout)
    page = (checkout / "reports" / "search.md").read_text()
    assert "**120 cases, 1 alarms.**" in page
    assert f"{alarm.what}: got off by 2^20 u64, should be at most 8 u64; `{reproduce(alarm)}`" in page


def test_the_check_sees_another_page_of_the_search_and_damaged_data(run, checkout, searched):
    report.render(searched(), checkout)
    replaced("0 alarms", "no alarms")(checkout / "reports" / "search.md")
    assert "reports/search.md is not what this run renders" in report.check(run, checkout)
    (checkout / "reports" / "search.json").write_text("[]")
    with pytest.raises(ValueError, match="make it again with: nox -s search"):
        report.check(run, checkout)


def test_pages_of_other_libraries_have_to_be_those_of_their_committed_data(run, checkout):
    folder = checkout / "reports" / "third-party"
    shutil.copytree(ROOT / "reports" / "third-party", folder)
    assert report.check(run, checkout) == []
    (folder / "loralib-lora.md").write_text("# faithful")
    (folder / "nobody.md").write_text("# faithful")
    assert report.check(run, checkout) == [
        "reports/third-party/loralib-lora.md is not what this run renders",
        "reports/third-party/nobody.md belongs to no variant",
    ]
    report.render(run, checkout)
    assert (folder / "loralib-lora.md").read_text() == (ROOT / "reports" / "third-party" / "loralib-lora.md").read_text()
