"""Recording again: what would change is told, and only --write changes it."""

import dataclasses

import pytest
import torch

from conformance import authors
from conformance.__main__ import main
from refs import lora
from refs.authors import recording, traces
from refs.authors.checkout import CheckoutError
from refs.authors.layer import AuthorLayer
from refs.authors.traces import Run, Traces
from refs.case import Case

CASE = Case(d_in=6, d_out=5, rank=2, alpha=3.0, batch=(4,))
HERE = {"torch": "2.13.0", "machine": "x86_64", "processor": "this one"}


def made(output=1.0, *, case=CASE, on=HERE, **more):
    tensors = {"output": torch.full((4, 5), output, dtype=case.torch_dtype)} | more
    return Traces({"commit": "c"}, on, [Run(case, "digest", (1.0, 0.5), ("lora_A",), tensors)])


def differences(before, now):
    return authors.differences(before, now, lora.FORMULA)


@pytest.fixture
def layer(tmp_path, monkeypatch):
    layer = AuthorLayer("loralib", lora.FORMULA, (CASE,), vectors=tmp_path)
    monkeypatch.setattr(authors, "layers", lambda names: [layer])
    return layer


def test_the_same_is_no_difference():
    assert differences(made(), made()) == []


def test_on_one_machine_every_bit_counts_and_elsewhere_the_policy():
    elsewhere = HERE | {"processor": "another"}
    slightly = 1.0 + 2.0**-52
    assert differences(made(), made(slightly)) == [f"output differs by 2^-52 in {CASE.id}"]
    assert differences(made(), made(slightly, on=elsewhere)) == []
    assert differences(made(), made(1.0 + 2.0**-30, on=elsewhere)) == [
        f"output differs by 2^-30, more than the policy allows, in {CASE.id}"
    ]


def test_below_float64_elsewhere_is_judged_by_the_float64_run_of_the_same_numbers():
    low, elsewhere = CASE.but(dtype="float32"), HERE | {"torch": "2.14.0"}
    exact = Run(CASE, "digest", (1.0, 0.5), ("lora_A",), {"output": torch.full((4, 5), 1.0, dtype=torch.float64)})

    def both(output, on):
        traces = made(output, case=low, on=on)
        return dataclasses.replace(traces, runs=[*traces.runs, exact])

    assert differences(both(1.0, HERE), both(1.0 + 2.0**-23, elsewhere)) == []
    assert "more than the policy allows" in differences(both(1.0, HERE), both(1.0 + 2.0**-16, elsewhere))[0]


def test_other_provenance_runs_and_tensors_are_named():
    other = dataclasses.replace(made(), provenance={"commit": "d"})
    assert differences(made(), other) == ["commit was 'c', is 'd'"]
    wider = CASE.but(d_in=7)
    assert differences(made(), made(case=wider)) == [f"not recorded: {wider.id}", f"not run any more: {CASE.id}"]
    assert differences(made(), made(extra=torch.ones(1))) == [f"other tensors: extra in {CASE.id}"]
    untrained = dataclasses.replace(made(), runs=[dataclasses.replace(made().runs[0], trained=())])
    assert differences(made(), untrained) == [f"other tensors: others are trained in {CASE.id}"]


def test_record_fails_on_what_would_change_and_write_keeps_it(layer, monkeypatch, capsys):
    now = made()
    monkeypatch.setattr(recording, "record", lambda about, asked: now)
    assert main(["record"]) == 1
    assert "loralib.safetensors is not there yet; keep them with --write" in capsys.readouterr().out
    assert not layer.recorded_file.exists()
    assert main(["record", "--write"]) == 0
    assert main(["record"]) == 0
    assert "1 runs, the same as recorded" in capsys.readouterr().out
    now = made(2.0)
    assert main(["record"]) == 1
    assert "output differs by 1 in" in capsys.readouterr().out
    assert traces.read(layer.recorded_file).runs[0].tensors["output"][0, 0] == 1
    assert main(["record", "--write"]) == 0
    assert traces.read(layer.recorded_file).runs[0].tensors["output"][0, 0] == 2


def test_what_cannot_be_recorded_or_fetched_is_a_line_and_a_status(layer, monkeypatch, capsys):
    def gone(*arguments):
        raise CheckoutError("no checkout")

    monkeypatch.setattr(recording, "record", gone)
    monkeypatch.setattr(authors.checkout, "clone", gone)
    assert main(["record"]) == 1
    assert main(["refs"]) == 1
    assert capsys.readouterr().out.count("FAILED: no checkout") == 2


def test_an_unknown_layer_lists_the_known_ones(capsys):
    assert main(["record", "nonsense"]) == 2
    assert "unknown author's layer nonsense; known: " in capsys.readouterr().err
