"""Tables and pages as text: what they say, that they say it everywhere, and the folder of a run."""

import contextlib
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
from conformance.jobs import jobs
from conformance.suites.test_lora import SUITE
from conformance.terminal import WIDTH, cell_id, failure_table, reproduce, verdict_table
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
    measured("equivalent", **SOURCE, **OTHER, what="output", error=30.0, bound=4000.0, unit="u64"),  # a smaller part of its bound
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

  check         closed form          peft                      itself
 ────────────────────────────────────────────────────────────────────────
  mapping       identical            identical
  forward       equivalent ≤ 4 u64   diverges ≤ 2^30 u64 [1]
  seed parity   not applicable [2]   untested [3]
  dropout                            not applicable [2]
  accuracy                           equivalent ≤ 2 × [4]
  detach                                                       identical

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
again: pytest --pyargs conformance.suites.test_lora -k "peft-forward" --case "{CASE.id}"

{CASE.but(seed=1)!r}

  what   got     should be
 ─────────────────────────────
  run    error   no exception
again: pytest --pyargs conformance.suites.test_lora -k "peft-forward" --case "{CASE.id}-seed1"


  what               got   should be
 ────────────────────────────────────
  size of the file   2     1
again: pytest --pyargs conformance.suites.test_lora -k "peft-forward"
"""


def test_the_verdict_table():
    assert verdict_table("lora", GOOD) == GOOD_TEXT


def test_the_failure_table():
    assert failure_table(RED) == RED_TEXT


def test_a_verdict_table_is_the_same_every_time_and_changes_nothing():
    before = list(GOOD)
    assert len({verdict_table("lora", GOOD) for _ in range(3)}) == 1
    assert before == GOOD


def test_the_title_is_the_verdict_of_the_whole():
    assert verdict_table("lora", GOOD[:4]).startswith("lora: faithful\n")
    assert verdict_table("lora", GOOD[:4], complete=False).startswith("lora: partial: a narrowed run\n")
    assert verdict_table("lora", GOOD[:6]).startswith("lora: faithful with documented divergence\n")
    assert verdict_table("lora", RED).startswith("lora: buggy\n")


def test_a_title_that_is_wider_than_its_table_stays_on_one_line():
    narrow = [measured("diverges", check="init")]
    assert verdict_table("lora", narrow).startswith("lora: faithful with documented divergence\n")


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
        ([measured("fails", error=math.inf, bound=32.0, unit="u64")], "fails ≤ inf u64"),
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
def test_a_cell_shows_the_error_that_is_closest_to_its_bound(measurements, cell):
    assert row(verdict_table("lora", measurements), "forward") == cell


def test_at_most_so_many_cases_are_shown_and_the_others_counted():
    assert failure_table(RED, most=3) == RED_TEXT
    first = RED_TEXT.partition(f"\n{CASE.but(seed=1)!r}")[0]
    assert failure_table(RED, most=1) == f"{first}\n… and 2 more cases; all are in the run's folder"


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
    wide = [measured("fails", what="output", got="a b " * 15, should="c d " * 15)]
    expected = verdict_table("lora", GOOD), failure_table(wide)
    for name, value in terminal.items():
        monkeypatch.setenv(name, value)
    assert (verdict_table("lora", GOOD), failure_table(wide)) == expected


def test_tables_are_text_in_a_notebook_too(monkeypatch):
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    assert verdict_table("lora", GOOD) == GOOD_TEXT


@pytest.mark.parametrize(
    ("measurement", "command"),
    [
        (measured("fails", check="dead parameters"), 'pytest --pyargs conformance.suites.test_lora -k "peft-dead_parameters"'),
        (
            measured("fails", reference="closed form", **AT),
            f'pytest --pyargs conformance.suites.test_lora -k "closed_form-forward" --case "{CASE.id}"',
        ),
        (measured("fails", candidate="yours"), 'print(certify(…, "lora", …, checks=["forward"]))'),
        (measured("fails", candidate="yours", **AT), f'print(certify(…, "lora", …, checks=["forward"], case="{CASE.id}"))'),
    ],
)
def test_the_command_that_makes_a_measurement_again(measurement, command):
    assert reproduce(measurement) == command


@pytest.mark.parametrize("among_references", [False, True], ids=["of lite", "among references"])
def test_the_keyword_of_every_command_is_one_that_pytest_takes_and_selects_its_cell(among_references):
    seen = 0
    for job in jobs(SUITE):
        if (job.candidate is not SUITE.candidate) is among_references:
            seen += 1
            assert job.id == cell_id(job._trial().column, job.check.name)
            keyword = re.search(
                '-k "(.*?)"', reproduce(measured("fails", reference=job._trial().column, check=job.check.name))
            ).group(1)
            selects = Expression.compile(keyword)
            assert selects.evaluate(lambda name, **_: name.lower() in f"test_lora[{job.id}]".lower())  # noqa: B023 called here
    assert seen >= 5


# The folder of a run.


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / "new" / "run"
    odd = measured("fails", error=math.inf, got="κ ≤ 30 – „so“ 🙂\n\ttabs and \x00", should='"quoted" \\', evidence=False)
    run_folder.write(folder, [*GOOD, *RED, odd])
    assert run_folder.read(folder) == [*GOOD, *RED, odd]
    lines = (folder / "measurements.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(GOOD) + len(RED) + 1
    assert json.loads(lines[0])["verdict"] == "identical"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\x0c", "\r"], ids=ascii)
def test_a_message_with_any_line_separator_is_read_again(tmp_path, separator):
    odd = measured("fails", got=f"one{separator}two")
    run_folder.write(tmp_path, [odd])
    assert run_folder.read(tmp_path) == [odd]


def test_a_run_without_measurements_is_read_again(tmp_path):
    run_folder.write(tmp_path, [])
    assert run_folder.read(tmp_path) == []


def test_the_folder_is_ignored_by_git(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    run_folder.write(tmp_path / ".conformance", GOOD)
    status = subprocess.run(["git", "-C", str(tmp_path), "status", "--short"], check=True, capture_output=True, text=True).stdout
    assert status == ""
    assert (tmp_path / ".conformance" / ".gitignore").read_text() == "*\n"


def test_a_run_replaces_the_pages_and_measurements_of_the_last(tmp_path):
    dora = [Measurement.from_dict(m.to_dict() | {"variant": "dora"}) for m in GOOD]
    run_folder.write(tmp_path, [*GOOD, *dora])
    assert {file.name for file in tmp_path.iterdir()} == {".gitignore", "measurements.jsonl", "lora.md", "dora.md"}
    run_folder.write(tmp_path, dora)
    assert {file.name for file in tmp_path.iterdir()} == {".gitignore", "measurements.jsonl", "dora.md"}
    assert run_folder.read(tmp_path) == dora


def test_a_page_shows_its_own_variant_alone(tmp_path):
    dora = [Measurement.from_dict(m.to_dict() | {"variant": "dora"}) for m in RED]
    run_folder.write(tmp_path, [*GOOD, *dora])
    lora_page, dora_page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("lora.md", "dora.md"))
    assert lora_page == f"# lora: partial\n\n12 measurements in 2 cases.\n\n```\n{GOOD_TEXT}\n```\n"
    assert dora_page.startswith("# dora: buggy\n\n5 measurements in 2 cases.\n\n```\ndora: buggy\n")
    failed = RED_TEXT.replace("lora: ", "dora: ").replace("test_lora", "test_dora")
    assert dora_page.endswith(f"```\n\n## forward against peft: error\n\n```\n{failed}\n```\n")


def test_a_narrowed_variant_has_no_verdict_of_its_own(tmp_path):
    dora = [Measurement.from_dict(m.to_dict() | {"variant": "dora"}) for m in GOOD[:4]]
    run_folder.write(tmp_path, [*GOOD[:4], *dora], narrowed={"dora"})
    lora_page, dora_page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("lora.md", "dora.md"))
    assert "# lora: faithful\n" in lora_page
    assert "\nlora: faithful\n" in lora_page
    assert "# dora: partial: a narrowed run\n" in dora_page
    assert "\ndora: partial: a narrowed run\n" in dora_page


def test_two_writes_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        run_folder.write(tmp_path / name, [*GOOD, *RED])
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"):
        run_folder.write(tmp_path / "taken", GOOD)


def test_files_that_no_run_has_written_are_left_alone(tmp_path):
    """`--conformance-dir .` must not cost anybody their README."""
    for name in ("README.md", ".gitignore"):
        (tmp_path / name).write_text("mine\n")
    with contextlib.suppress(OSError):  # to refuse such a folder is fine
        run_folder.write(tmp_path, GOOD)
    assert {name: (tmp_path / name).read_text() for name in ("README.md", ".gitignore") if (tmp_path / name).exists()} == {
        "README.md": "mine\n",
        ".gitignore": "mine\n",
    }


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; from conformance import run_folder; from conformance.verdict import *; "
        f"m = Measurement.from_dict({GOOD[0].to_dict()!a}); "
        "run_folder.write(Path(sys.argv[1]), [m]); assert run_folder.read(Path(sys.argv[1])) == [m]"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | ascii_only, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "peft – closed form" in (tmp_path / "lora.md").read_text(encoding="utf-8")
