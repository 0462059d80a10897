"""Tables and pages as text: what they say, that they say it everywhere, and the folder of a run."""

import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import pytest
from _pytest.mark.expression import Expression
from rich import console

from conformance import run_folder
from conformance.certificate import Certificate
from conformance.explain import reproduced
from conformance.jobs import jobs
from conformance.suites.test_lora import SUITE
from conformance.terminal import WIDTH, failure_table, reproduce, verdict_table
from conformance.verdict import Measurement, Verdict
from refs.case import Case

CASE = Case(d_in=24, d_out=16, rank=4, alpha=6.0)
AT = {"case": repr(CASE), "case_id": CASE.id}
OTHER = {"case": repr(CASE.but(seed=1)), "case_id": CASE.but(seed=1).id}
FIELDS = {"variant": "lora", "candidate": "lite", "reference": "peft", "version": "", "check": "forward"}


def measured(verdict, **more):
    return Measurement(**FIELDS | {"verdict": Verdict(verdict)} | more)


SOURCE = {"reference": "closed form", "version": "arXiv:1"}
GOOD = [
    measured("identical", check="mapping", reference="peft – closed form", candidate="peft", version="arXiv:1"),
    measured("identical", check="mapping", **SOURCE),
    measured("identical", check="mapping", version="peft 1"),
    measured("equivalent", **SOURCE, **AT, what="output", error=3.0, bound=40.0, unit="u64"),
    measured(
        "equivalent", **SOURCE, **OTHER, what="output", error=30.0, bound=4000.0, unit="u64"
    ),  # the largest error, though a smaller part of its bound
    measured("diverges", **AT, what="output", error=1e9, bound=40.0, unit="u64", reason="scale: documented (link)"),
    measured("not applicable", check="seed parity", **SOURCE, reason="no generator"),
    measured("untested", check="seed parity", reason="pass `reset`"),
    measured("not applicable", check="dropout", reason="no generator"),
    measured("equivalent", check="accuracy", error=1.5, bound=4.0, unit="× the reference's error"),
    measured("not applicable", check="accuracy", error=99.0, bound=4.0, unit="×", reason="ill-conditioned", evidence=False),
    measured("identical", check="detach", reference="itself"),
]
GOOD_TEXT = """\
lora: partial

  check         closed form           peft                      itself
 ─────────────────────────────────────────────────────────────────────────
  mapping       identical             identical
  forward       equivalent ≤ 32 u64   diverges ≤ 2^30 u64 [1]
  seed parity   not applicable [2]    untested [3]
  dropout                             not applicable [2]
  accuracy                            equivalent ≤ 2 × [4]
  detach                                                        identical

  check     peft – closed form
 ──────────────────────────────
  mapping   identical
  closed form: arXiv:1
  peft: peft 1
  [1] scale: documented (link)
  [2] no generator
  [3] pass `reset`
  [4] ill-conditioned"""

RED = [
    measured("fails", **AT, what="output", error=1e9, bound=40.0, unit="u64", got="off by 2^30 u64", should="at most 40 u64"),
    measured("identical", **AT, what="grad.lora_A"),
    measured("fails", **AT, what="grad.x", got="[red]float32[/red] (2,) :smile:", should="float64 (3,)"),
    measured("error", **OTHER, what="run", should="no exception"),
    measured("fails", what="size of the file", got="2", should="1"),
]
RED_TEXT = f"""\
lora: forward of lite against peft
{CASE!r}

  what     got                               should be
 ───────────────────────────────────────────────────────────
  output   off by 2^30 u64                   at most 40 u64
  grad.x   [red]float32[/red] (2,) :smile:   float64 (3,)
again: python -m conformance reproduce "lora/peft-forward/{CASE.id}"

{CASE.but(seed=1)!r}

  what   got     should be
 ─────────────────────────────
  run    error   no exception
again: python -m conformance reproduce "lora/peft-forward/{CASE.id}-seed1"


  what               got   should be
 ────────────────────────────────────
  size of the file   2     1
again: python -m conformance reproduce "lora/peft-forward"
"""


def test_the_verdict_table():
    assert verdict_table("lora: partial", GOOD) == GOOD_TEXT
    assert Certificate("lora", tuple(GOOD)).table == GOOD_TEXT


def test_the_failure_table():
    assert failure_table(RED) == RED_TEXT


def test_a_verdict_table_is_the_same_every_time_and_changes_nothing():
    before = list(GOOD)
    assert len({verdict_table("lora", GOOD) for _ in range(3)}) == 1
    assert before == GOOD


@pytest.mark.parametrize(
    ("measurements", "more", "title"),
    [
        (GOOD[:5], {}, "lora: faithful"),
        (GOOD[:5], {"complete": False}, "lora: partial: a narrowed run"),
        (GOOD[:6], {}, "lora: faithful with documented divergence"),
        ([measured("diverges", check="init")], {}, "lora: faithful with documented divergence"),
        (GOOD[:5], {"doc_gaps": ("option `r` is unsaid",)}, "lora: faithful, doc gap"),
        (RED, {}, "lora: buggy"),
    ],
)
def test_the_title_is_the_verdict_of_the_whole_on_one_line(measurements, more, title):
    certificate = Certificate("lora", tuple(measurements), **more)
    assert certificate.table.startswith(f"{title}\n\n")
    assert f"lora: {certificate.verdict}" == title
    assert [line for line in certificate.table.splitlines() if "doc gap: " in line] == [
        f"  doc gap: {gap}" for gap in certificate.doc_gaps
    ]


def test_a_certificate_is_its_measurements_and_prints_its_table_and_its_failures():
    certificate = Certificate("lora", (*GOOD, *RED))
    assert list(certificate) == [*GOOD, *RED]
    assert certificate.red == {"forward"}
    assert certificate.cells["forward", "peft"] == "error"
    assert certificate.failures() == [RED_TEXT]
    assert str(certificate) == f"{certificate.table}\n\n{RED_TEXT}"
    assert str(Certificate("lora", tuple(GOOD))) == GOOD_TEXT


def row(text, check):
    return next(line for line in text.splitlines() if line.startswith(f"  {check} ")).split(maxsplit=1)[1]


def test_notes_are_numbered_in_the_order_of_the_cells_and_shared():
    cells = [("init", "b"), ("forward", "a"), ("defaults", "b"), ("training", "c")]
    text = verdict_table("lora", [measured("untested", check=check, reason=reason) for check, reason in cells])
    assert [row(text, check) for check, _ in cells] == ["untested [1]", "untested [2]", "untested [1]", "untested [3]"]
    assert text.endswith("\n  [1] b\n  [2] a\n  [3] c")


def test_several_notes_of_one_cell_each_occur_once():
    text = verdict_table("lora", [measured("untested", check="init", reason=reason) for reason in ("one", "two", "one", "")])
    assert row(text, "init") == "untested [1] [2]"
    assert text.endswith("\n  [1] one\n  [2] two")


@pytest.mark.parametrize(
    ("measurements", "cell"),
    [
        ([measured("identical", error=0.0, bound=32.0, unit="u64")], "identical"),
        ([measured("equivalent", error=1.01, bound=32.0, unit="u64")], "equivalent ≤ 2 u64"),
        ([measured("fails", error=math.inf, bound=32.0, unit="u64")], "fails by inf u64"),
        ([measured("fails", error=math.inf)], "fails"),
        ([measured("equivalent", error=0.1, bound=4.0, unit="× the reference's error")], "equivalent ≤ 0.125 ×"),
        ([measured("identical"), measured("equivalent", error=2.0**-30, bound=1.0, unit="u32")], "equivalent ≤ 2^-30 u32"),
        (
            [measured("equivalent", error=8.0, bound=16.0, unit="u64"), measured("equivalent", error=3.0, bound=4.0, unit="u32")],
            "equivalent ≤ 4 u32",
        ),
        ([measured("identical"), measured("not applicable", error=9.0, bound=1.0, unit="u64")], "identical"),
        ([measured("identical"), measured("equivalent", error=9.0, bound=1.0, unit="u64", evidence=False)], "identical"),
    ],
)
def test_a_cell_shows_its_largest_error_in_the_unit_that_is_closest_to_its_bound(measurements, cell):
    assert row(verdict_table("lora", measurements), "forward") == cell


def test_at_most_so_many_cases_are_shown_and_the_others_counted():
    assert failure_table(RED, most=3) == RED_TEXT
    first = RED_TEXT.partition(f"\n{CASE.but(seed=1)!r}")[0]
    assert failure_table(RED, most=1) == f"{first}\n… and 2 more cases; all are among the measurements"


def test_a_failure_between_references_names_both():
    between = [measured("fails", reference="peft – closed form", candidate="peft", what="output", got="1", should="2")]
    assert failure_table(between).startswith("lora: forward of peft against closed form\n")


def test_long_text_is_wrapped_not_cut():
    words = [f"word{number}" for number in range(60)]
    text = failure_table([measured("fails", what="output", got=" ".join(words), should="x" * 150)])
    table = text.partition("again:")[0]
    assert max(map(len, table.splitlines())) <= WIDTH
    assert [word for word in words if not re.search(rf"\b{word}\b", table)] == []
    assert table.count("x") == 150


TERMINALS = [
    {"COLUMNS": "40", "LINES": "5"},
    {"TERM": "dumb"},
    {"TERM": "xterm-256color", "COLORTERM": "truecolor", "FORCE_COLOR": "1"},
    {"NO_COLOR": "1"},
    {"TERM": "dumb", "FORCE_COLOR": "1"},
    {"TERM": "unknown", "TTY_COMPATIBLE": "1"},
]


@pytest.mark.parametrize("terminal", TERMINALS, ids=repr)
def test_tables_are_the_same_in_every_terminal(monkeypatch, terminal):
    for name in ("COLUMNS", "LINES", "TERM", "COLORTERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    wide = [measured("fails", what="output", got="a b " * 15, should="c d " * 15)]
    expected = verdict_table("lora", GOOD), failure_table(wide)
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    assert (verdict_table("lora", GOOD), failure_table(wide)) == expected


def test_tables_are_text_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    assert verdict_table("lora: partial", GOOD) == GOOD_TEXT


@pytest.mark.parametrize(
    ("measurement", "command"),
    [
        (measured("fails", check="dead parameters"), 'python -m conformance reproduce "lora/peft-dead_parameters"'),
        (
            measured("fails", reference="closed form", **AT),
            f'python -m conformance reproduce "lora/closed_form-forward/{CASE.id}"',
        ),
        (measured("fails", candidate="yours"), 'print(certify(…, "lora", …, checks=["forward"]))'),
        (measured("fails", candidate="yours", **AT), f'print(certify(…, "lora", …, checks=["forward"], case="{CASE.id}"))'),
    ],
)
def test_the_command_that_makes_a_measurement_again(measurement, command):
    assert reproduce(measurement) == command


def test_the_command_of_every_cell_makes_its_measurements_again():
    for job in jobs(SUITE):
        if job.check.name == "mapping":
            [*first], case_id = job.measure(), SUITE.cases[0].id
            again = [m for m in first if m.case_id == case_id]
            assert again
            id_ = re.fullmatch('python -m conformance reproduce "(.*)"', reproduce(again[0])).group(1)
            assert list(reproduced(id_)) == again


@pytest.mark.parametrize("among_references", [False, True], ids=["of lite", "among references"])
def test_the_id_of_every_cell_is_unique_and_one_that_pytest_takes_as_a_keyword(among_references):
    chosen = [job.id for job in jobs(SUITE) if (job.candidate is not SUITE.candidate) is among_references]
    assert len(set(chosen)) == len(chosen) >= 5
    for id_ in chosen:
        assert Expression.compile(id_).evaluate(lambda name, **_: name.lower() in f"test_lora[{id_}]".lower())  # noqa: B023


# The folder of a run.


def certificates(*measurements, **more):
    """One per variant."""
    variants = dict.fromkeys(m.variant for m in measurements)
    return [Certificate(variant, tuple(m for m in measurements if m.variant == variant), **more) for variant in variants]


def of_dora(measurements):
    return [dataclasses.replace(m, variant="dora") for m in measurements]


def _kept(folder):
    """Without the machine."""
    return [dataclasses.replace(certificate, machine={}) for certificate in run_folder.read(folder)]


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / "new" / "run"
    odd = measured("fails", error=math.inf, got="κ ≤ 30 – „so“ 🙂\n\ttabs and \x00", should='"quoted" \\', evidence=False)
    written = [
        Certificate("lora", (*GOOD, odd), complete=False, doc_gaps=("option `r` – unsaid",)),
        Certificate("dora", tuple(of_dora(RED))),
    ]
    run_folder.write(folder, written)
    assert run_folder.read(folder) == [dataclasses.replace(c, machine=run_folder.machine()) for c in written]
    lines = (folder / "measurements.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(GOOD) + len(RED) + 1
    assert json.loads(lines[0])["verdict"] == "identical"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\x0c", "\r"], ids=ascii)
def test_a_message_with_any_line_separator_is_read_again(tmp_path, separator):
    written = certificates(measured("fails", got=f"one{separator}two"))
    run_folder.write(tmp_path, written)
    assert _kept(tmp_path) == written


def test_a_run_without_measurements_is_read_again(tmp_path):
    run_folder.write(tmp_path, [])
    assert _kept(tmp_path) == []


def test_a_folder_without_a_run_is_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run; make one with: nox -s conformance"):
        run_folder.read(tmp_path)


@pytest.mark.parametrize("left", ["", "{", "[]", '{"mine": 1}'], ids=repr)
def test_what_an_interrupted_run_or_somebody_else_left_does_not_break_the_next(tmp_path, left):
    (tmp_path / "run.json").write_text(left)
    written = certificates(*GOOD)
    run_folder.write(tmp_path, written)
    assert _kept(tmp_path) == written


def test_the_folder_is_ignored_by_git(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    run_folder.write(tmp_path / ".conformance", certificates(*GOOD))
    status = subprocess.run(["git", "-C", str(tmp_path), "status", "--short"], check=True, capture_output=True, text=True).stdout
    assert status == ""
    assert (tmp_path / ".conformance" / ".gitignore").read_text() == "*\n"


def test_a_run_replaces_the_pages_and_measurements_of_the_last(tmp_path):
    own = {".gitignore", "measurements.jsonl", "run.json"}
    dora = certificates(*of_dora(GOOD))
    run_folder.write(tmp_path, [*certificates(*GOOD), *dora])
    assert {file.name for file in tmp_path.iterdir()} == own | {"lora.md", "dora.md"}
    run_folder.write(tmp_path, dora)
    assert {file.name for file in tmp_path.iterdir()} == own | {"dora.md"}
    assert _kept(tmp_path) == dora


def test_a_page_shows_its_own_variant_alone(tmp_path):
    run_folder.write(tmp_path, certificates(*GOOD, *of_dora(RED)))
    lora_page, dora_page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("lora.md", "dora.md"))
    assert lora_page == f"# lora: partial\n\n12 measurements in 2 cases.\n\n```\n{GOOD_TEXT}\n```\n"
    assert dora_page.startswith("# dora: buggy\n\n5 measurements in 2 cases.\n\n```\ndora: buggy\n")
    failed = RED_TEXT.replace("lora: ", "dora: ").replace('"lora/', '"dora/')
    assert dora_page.endswith(f"\n```\n\n```\n{failed}\n```\n")


def test_a_narrowed_variant_has_no_verdict_of_its_own(tmp_path):
    run_folder.write(tmp_path, [*certificates(*GOOD[:5]), *certificates(*of_dora(GOOD[:5]), complete=False)])
    lora_page, dora_page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("lora.md", "dora.md"))
    assert lora_page.startswith("# lora: faithful\n")
    assert "\nlora: faithful\n" in lora_page
    assert dora_page.startswith("# dora: partial: a narrowed run\n")
    assert "\ndora: partial: a narrowed run\n" in dora_page


def test_the_summary_of_a_job_has_the_failures_as_far_as_there_is_room(tmp_path, monkeypatch):
    written = certificates(*GOOD, *of_dora(RED))
    run_folder.write(tmp_path, written)
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("lora.md", "dora.md")]
    assert run_folder.job_summary(tmp_path) == "\n".join(pages)
    room = len("\n".join(pages).encode())
    monkeypatch.setattr(run_folder, "SUMMARY_BYTES", room)
    assert run_folder.job_summary(tmp_path) == "\n".join(pages)
    monkeypatch.setattr(run_folder, "SUMMARY_BYTES", room - 1)
    assert run_folder.job_summary(tmp_path) == "\n\n".join(f"# {c.variant}: {c.verdict}\n\n```\n{c.table}\n```" for c in written)


def test_two_writes_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        run_folder.write(tmp_path / name, certificates(*GOOD, *RED))
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"):
        run_folder.write(tmp_path / "taken", certificates(*GOOD))


def test_files_that_no_run_has_written_are_left_alone(tmp_path):
    """`--conformance-dir .` must not cost anybody their README."""
    mine = {"README.md": "mine\n", ".gitignore": "mine\n"}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    with contextlib.suppress(OSError):  # to refuse such a folder is fine
        run_folder.write(tmp_path, certificates(*GOOD))
    assert {name: (tmp_path / name).read_text() for name in mine if (tmp_path / name).exists()} == mine


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    code = (
        "import dataclasses, sys; from pathlib import Path; from conformance import run_folder; from conformance.certificate import *; "
        f"c = [Certificate('lora', (Measurement.from_dict({GOOD[0].to_dict()!a}),))]; "
        "run_folder.write(Path(sys.argv[1]), c); assert [dataclasses.replace(k, machine={}) for k in run_folder.read(Path(sys.argv[1]))] == c"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | ascii_only, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "peft – closed form" in (tmp_path / "lora.md").read_text(encoding="utf-8")
