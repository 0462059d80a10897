"""Whole models: each check turns red on a bug that it is there for, a run keeps its sheets, and pages are made of complete ones."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lite
from conformance.known_bugs import BUGS, planted
from conformance.report import whole as pages
from conformance.terminal import failure_table, model_table
from conformance.verdict import GROUP, Measurement, Verdict, worst
from conformance.whole import results, training
from conformance.whole.cell import Cell, Record, as_tests, on_models
from conformance.whole.model import every_backend, measured
from conformance.whole.variants import beside_peft
from refs import minilm
from refs.models import MODELS
from refs.wide import Wide

real = pytest.mark.skipif(minilm.missing() is not None, reason="no text without MiniLM's package")
train = functools.partial(training.measured, 4, {"llama": ("AdamW",)})


def run(variant, model="bert", check=measured):
    return on_models("model", [variant], [MODELS[model]], check)[0].measure()


def red(measurements):
    return {m.what.partition(GROUP)[0] for m in measurements if m.verdict.is_red}


def bug(where, old, new, variant="lora"):
    return dataclasses.replace(BUGS[0], id="whole", variant=variant, where=where, old=old, new=new)


HOOK = "lite.adapter:Adapter.__call__"
ADAPTED = "return adapted.to(y.dtype)"
RESUMED = "AdamW resumed"
# What is wrong; variant, model, check; the groups that have to be red; what a failure says.
BROKEN = [
    ("a target too few", bug("lite.layers:targets", "return chosen", "return chosen[1:]"), "lora", "bert", measured, {"targets"}, "attention.self.query"),
    ("a target too many", bug("lite.layers:_selects", "for p in config.target_names for name in names)", 'for p in (*config.target_names, "pooler") for name in names)'), "lora", "bert", measured, {"targets"}, "also pooler.dense"),
    ("biases of the base are trained", bug("lite.runtime:commit", "parameter.requires_grad_(False)", "parameter.requires_grad_(parameter.ndim == 1)"), "lora", "bert", measured, {"base"}, "attention.self.query.bias"),
    ("later blocks are left out", bug(HOOK, ADAPTED, 'return y if ".1." in self.layer.name else adapted.to(y.dtype)'), "lora", "bert", measured, {"eval", "train"}, "layer.1.output.dense.lora_B"),
    ("the dropout's numbers are its own", bug("lite.variants.dora", "F.dropout(x, config.dropout) if", 'x * (1 + __import__("random").random()) if', "dora"), "dora", "gpt2", measured, {"train", "checkpointing"}, "bit for bit the same"),
    ("compiled, the adapter is too strong", bug(HOOK, ADAPTED, "return y + (adapted - y) * (1.01 if torch.compiler.is_compiling() else 1.0)"), "lora", "bert", measured, {"aot_eager"}, "at most"),
    ("compiled, the adapter is too strong, long run", bug(HOOK, ADAPTED, "return y + (adapted - y) * (1.01 if torch.compiler.is_compiling() else 1.0)"), "lora", "gpt2", every_backend, {"aot_eager"}, "at most"),
    ("gradients are a little too large", bug(HOOK, ADAPTED, "return (adapted + (adapted - adapted.detach()) * 1e-5).to(y.dtype)"), "lora", "llama", train, {"AdamW"}, "the reference's error"),
    ("a file is read back in another order", bug("lite.stored:_fitting", "for name in adapter.shapes}\n\n    return", "for name in reversed(adapter.shapes)}\n\n    return"), "road", "llama", train, {RESUMED}, "values differ"),
    ("a file is rounded", bug("lite.files:content", ".detach().cpu().contiguous()", ".detach().cpu().bfloat16().float().contiguous()"), "lora", "llama", train, {RESUMED}, "values differ"),
]  # fmt: skip


@real
@pytest.mark.parametrize(
    ("bug", "variant", "model", "check", "groups", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_bug_turns_its_group_red_and_shows_both_sides(bug, variant, model, check, groups, says):
    with planted(bug):
        found = run(variant, model, check)
    assert groups <= red(found), [m for m in found if m.verdict.is_red][:3]
    assert "run" not in red(found)
    said = failure_table(found)
    assert says in said
    assert f'again: python -m pytest conformance/whole -k "test_model[{variant}-{model}]"' in said


@real
def test_a_square_conv1d_that_is_taken_for_a_linear_layer_is_seen(monkeypatch):
    def stored(layer):
        return layer.module.weight if layer.d_in == layer.d_out else layer.module.weight.T

    monkeypatch.setattr(lite.layers.Layer, "weight", property(stored))
    assert {"eval", "train"} <= red(run("dora", "gpt2"))


@real
def test_a_wrong_map_is_seen(monkeypatch):
    swapped = {"lora_theta": "road_alpha", "lora_alpha": "road_theta"}
    from conformance.whole import sides

    right = sides.reference_of("road")
    monkeypatch.setattr(sides, "reference_of", lambda variant: dataclasses.replace(right, map=swapped))
    assert {"eval", "train"} <= red(run("road"))


@real
def test_steps_that_are_off_by_one_are_seen(monkeypatch):
    right = training.Run.steps

    def late(self, until):
        return right(self, until - (until == 4 and len(self.losses) == 2))

    monkeypatch.setattr(training.Run, "steps", late)
    assert RESUMED in red(run("lora", "llama", train))


@real
def test_an_adapter_that_does_nothing_is_untested(monkeypatch):
    monkeypatch.setattr("conformance.whole.sides.perturb", lambda *_: None)
    found = run("lora")
    assert worst(found) is Verdict.UNTESTED
    assert "moves the output by 0" in next(m.reason for m in found if m.reason)


@real
def test_what_peft_refuses_is_not_applicable_in_its_words_and_other_exceptions_are_errors(monkeypatch):
    refused = run("delora", "gpt2")
    assert [m.verdict for m in refused] == [Verdict.NOT_APPLICABLE]
    assert "Conv1D(nf=72, nx=24) is not supported" in refused[0].reason
    monkeypatch.setattr("conformance.whole.sides.config", lambda *_: 1 / 0)
    assert [(m.verdict, m.got.partition(" (")[0]) for m in run("lora")] == [(Verdict.ERROR, "ZeroDivisionError: division by zero")]


def test_without_text_a_cell_is_untested(monkeypatch):
    monkeypatch.setattr("refs.models.minilm.missing", lambda: "no real weights")
    assert [(m.verdict, m.reason) for m in run("lora")] == [(Verdict.UNTESTED, "no real weights")]


def test_every_variant_of_peft_is_there():
    assert set(beside_peft()) == {
        "lora",
        "dora",
        "pissa",
        "olora",
        "eva",
        "corda",
        "lora_xs",
        "delora",
        "hra",
        "ia3",
        "ia3_ff",
        "road",
    }


@real
def test_wide_models_compute_nothing_in_float32():
    model = MODELS["llama"]
    base = model.fresh()
    narrow = model.outputs(base, model.batch())["logits"]
    with Wide():
        wide, again = (model.outputs(base, model.batch())["logits"] for _ in range(2))
    assert torch.equal(wide, again)
    assert 2.0**-26 < float((wide - narrow).detach().norm() / wide.detach().norm()) < 2.0**-18


# The mechanism: sheets of a run, of the repository, and their pages.


def measurement(model, what, verdict=Verdict.EQUIVALENT, variant="lora", check="model", error=1.0, **more):
    return Measurement(
        variant=variant, candidate="lite", reference="peft", version="peft 0", check=check, verdict=verdict, case=f"whole model {model}",
        case_id=model, what=what, error=error, bound=8.0, unit="u64", **more,
    )  # fmt: skip


SOME = [
    measurement("bert", "eval: loss"),
    measurement("bert", "eval: logits", error=4.0),
    measurement("bert", "train: loss", Verdict.FAILS, error=9.0, got="off by 16 u64", should="at most 8 u64"),
    measurement("gpt2", "run", Verdict.NOT_APPLICABLE, error=0.0, reason="peft refuses"),
]
MACHINE = {"python": "3"}


def test_a_run_replaces_its_own_sheets_only(tmp_path):
    results.write(tmp_path, "model", 1, MACHINE, {0: SOME})
    results.write(tmp_path, "training", 2, MACHINE, {0: SOME[:1]})
    results.write(tmp_path, "model", 1, MACHINE, {0: SOME[:2]})
    sheets = results.read_run(tmp_path)
    assert {check: (sheet.complete, len(sheet.rows)) for check, sheet in sheets.items()} == {
        "model": (True, 1),
        "training": (False, 1),
    }
    assert [(row.group, row.count, row.shown.what) for row in sheets["model"].rows] == [("eval", 2, "eval: logits")]


def test_runs_of_some_cells_each_make_a_whole(tmp_path):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    for folder, cells in ((one, {1: SOME[1:]}), (two, {0: SOME[:1]}), (both, {})):
        folder.mkdir()
        if cells:
            results.write(folder, "model", 2, MACHINE, cells)
    results.write(two, "training", 2, MACHINE, {1: SOME[:1]})
    results.merge([one, two], both)
    assert {check: sheet.complete for check, sheet in results.read_run(both).items()} == {"model": True, "training": False}
    whole = tmp_path / "whole"
    whole.mkdir()
    results.write(whole, "model", 2, MACHINE, {0: SOME[:1], 1: SOME[1:]})
    results.write(whole, "training", 2, MACHINE, {1: SOME[:1]})
    assert (both / results.RUN).read_text() == (whole / results.RUN).read_text()
    with pytest.raises(ValueError, match="model: 1 cells are in two of"):
        results.merge([one, both], whole)


def test_a_damaged_file_is_told_and_replaced_by_the_next_run(tmp_path):
    (tmp_path / results.RUN).write_text("{")
    with pytest.raises(ValueError, match=r"whole\.jsonl is damaged"):
        results.read_run(tmp_path)
    results.write(tmp_path, "model", 1, MACHINE, {0: SOME})
    assert list(results.read_run(tmp_path)) == ["model"]
    (tmp_path / results.FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"whole\.json is damaged"):
        results.read(tmp_path)


def test_pages_are_made_of_complete_sheets_else_of_the_committed_ones(tmp_path):
    run_, reports = tmp_path / "run", tmp_path / "reports"
    run_.mkdir(), reports.mkdir()
    results.write(run_, "model", 1, MACHINE, {0: SOME})
    (reports / results.FILE).write_text(results.to_json(results.current(run_, reports)))
    committed = results.read(reports)
    assert committed["model"].rows == results.read_run(run_)["model"].rows
    results.write(run_, "model", 2, MACHINE, {0: SOME[:1]})
    assert results.current(run_, reports) == results.current(None, reports) == committed
    page = pages.pages(committed)["models.md"]
    assert "| variant | bert | gpt2 |" in page
    assert "| lora | fails ≤ 16 u64 | not applicable [1] |" in page
    assert "[1] peft refuses" in page
    assert "**lora** on bert, train: loss: got off by 16 u64, should be at most 8 u64" in page
    assert pages.lines(committed) == ["Whole models: [outputs and gradients](models.md)."]
    assert pages.lines({}) == []


def test_another_verdict_than_the_committed_one_is_told(tmp_path):
    run_, reports = tmp_path / "run", tmp_path / "reports"
    run_.mkdir(), reports.mkdir()
    results.write(run_, "model", 1, MACHINE, {0: SOME[:2]})
    assert results.changes(run_, reports) == []
    (reports / results.FILE).write_text(results.to_json(results.current(run_, reports)))
    same = [dataclasses.replace(m, verdict=Verdict.IDENTICAL) for m in SOME[:2]]
    results.write(run_, "model", 1, MACHINE, {0: same})
    assert results.changes(run_, reports) == []
    results.write(run_, "model", 1, MACHINE, {0: SOME[:3]})
    assert results.changes(run_, reports) == ["model, lora on bert, train: committed 'nothing', now 'fails'"]


def test_the_terminal_has_a_table_of_models():
    table = model_table("whole models: model", SOME)
    assert "fails by 16 u64" in table
    assert "[1] peft refuses" in table


def test_a_cell_never_raises_and_tests_are_marked_by_variant():
    cell = Cell("model", "lora", "bert", lambda record: record.expect("group", "what", "one", "two"))
    assert [(m.what, m.got, m.should) for m in cell.measure()] == [("group: what", "one", "two")]
    assert [m.verdict for m in dataclasses.replace(cell, run=lambda record: 1 / 0).measure()] == [Verdict.ERROR]
    assert [m.verdict for m in dataclasses.replace(cell, run=lambda record: None).measure()] == [Verdict.UNTESTED]
    placed = as_tests([cell]).pytestmark[0].args[1][0]
    assert (placed.id, placed.marks[0].kwargs) == ("lora-bert", {"name": "lora"})
    assert Record("model", "lora", "bert").measured == []


def pytest_on(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "--pyargs", "conformance.whole", "-q", "-p", "no:cacheprovider", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    (folder / "pytest.ini").touch()
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=kept | {"HF_HUB_OFFLINE": "1"}, check=False)


@real
def test_any_order_and_any_number_of_workers_give_the_same_file(tmp_path):
    chosen = ("--variant", "ia3_ff", "-k", "gpt2")
    texts = []
    for name, more in (("one", ("-p", "no:randomly")), ("two", ("-n", "2")), ("other", ("-p", "randomly", "-p", "no:xdist"))):
        folder = tmp_path / name
        folder.mkdir()
        done = pytest_on(folder, *chosen, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        texts.append((folder / ".conformance" / results.RUN).read_text())
    assert texts[0] == texts[1] == texts[2]
    told = [json.loads(line) for line in texts[0].splitlines()]
    assert [entry["check"] for entry in told] == ["interop", "merge", "model"]
    assert all(len(entry["cells"]) < entry["size"] for entry in told)
    assert {m["case_id"] for cell in told[2]["cells"].values() for m in cell} == {"gpt2"}


def test_the_names_of_tests_are_those_of_checks():
    from conformance.whole import hundred_steps, test_models, test_training

    for module in (hundred_steps, test_models, test_training):
        for name, test in vars(module).items():
            if name.startswith("test_"):
                cells = [placed.values[1] for mark in test.pytestmark if mark.name == "parametrize" for placed in mark.args[1]]
                assert {"test_" + cell.check.replace(" ", "_") for cell in cells} == {name}
    assert lite.VARIANTS.keys() >= set(beside_peft())
    assert Path(hundred_steps.__file__).name.startswith("test_") is False
