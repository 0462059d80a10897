"""Layers of other libraries: what is declared of them is whole, a run becomes data and pages, and the committed pages are those of their data."""

import ast
import functools
import itertools
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from conformance import third_party
from conformance.__main__ import main
from conformance.certificate import Certificate
from conformance.findings import FINDINGS
from conformance.jobs import jobs
from conformance.report import third_party as report
from conformance.suite_of import suite_of
from conformance.third_party import Layer, Library, chosen, libraries
from conformance.third_party_run import certified, condensed, read, to_json, write
from conformance.variants import known
from conformance.verdict import Measurement, Verdict

REPORTS = Path(__file__).parents[2] / "reports"
LAYERS = {layer.page: layer for library in libraries() for layer in library.layers}
FEW = dict.fromkeys(("mapping", "seed parity", "forward", "gradients", "dropout", "round trip"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Without the pretrained layers, and few checks as if they were all: what a run becomes is asked here."""
    for module in ("conformance.certification", "conformance.third_party"):
        monkeypatch.setattr(f"{module}.suite_of", functools.cache(lambda variant: suite_of(variant).small))
    monkeypatch.setattr("conformance.third_party_run.CHECKS", FEW)


@pytest.fixture
def fake(monkeypatch):
    """Puts a library in the place of all: tqdm, which is installed, as if it had this layer."""

    def put(factor=1.0):
        layer = Layer(
            page="fake-lora", variant="lora", what="tqdm.Low", factory=lambda b, c: Low(b, c, factor), map=LOW, reset=Low.reset
        )
        pins = (f"tqdm=={metadata.version('tqdm')}",)
        library = Library(name="tqdm", requirements=pins, licence="MPL-2.0", link="https://example.org", layers=(layer,))
        for module in (third_party, report):
            monkeypatch.setattr(module, "libraries", lambda: (library,))
        return layer

    return put


class Low(nn.Module):
    """LoRA, times a factor."""

    def __init__(self, base, case, factor):
        super().__init__()
        if case.layer == "conv1d" or case.adapter_dtype or {name for name, _ in case.options} - {"dropout"}:
            raise NotImplementedError("plain LoRA only")
        self.base, self.scale, self.p = base, factor * case.alpha / case.rank, case.option("dropout", 0.0)
        self.A = nn.Parameter(torch.empty(case.rank, case.d_in, dtype=case.torch_dtype))
        self.B = nn.Parameter(torch.zeros(case.d_out, case.rank, dtype=case.torch_dtype))
        self.reset(case)

    def reset(self, case):
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x):
        return self.base(x) + nn.functional.dropout(x, self.p, self.training) @ self.A.T @ self.B.T * self.scale


LOW = {"lora_A": "A", "lora_B": "B"}


def test_what_is_declared_is_whole():
    names = [library.name for library in libraries()]
    assert {"loralib", "torchtune", "lycoris-lora", "adapters", "litgpt"} <= set(names)
    assert len(LAYERS) == sum(len(library.layers) for library in libraries())
    assert not set(names) & set(LAYERS)  # both are asked for by name
    for library in libraries():
        assert library.requirements[0] == f"{library.name}=={library.release}"
        assert library.licence
        assert library.about
        for layer in library.layers:
            assert re.fullmatch(r"[a-z0-9-]+", layer.page)
            assert layer.variant in known()
            assert layer.candidate().name == f"third party {layer.page}"  # its map fits the variant
            list(jobs(replace(suite_of(layer.variant), divergences=layer.divergences)))  # raises where one names no cell


def test_noxfile_can_read_what_has_to_be_installed():
    files = sorted(Path(third_party.__file__).parent.glob("[!_]*.py"))
    said = [
        ast.literal_eval(node.value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "requirements"
    ]
    assert said == [library.requirements for library in libraries()]


@pytest.mark.parametrize("requirement", ["tqdm", "tqdm>=1", "tqdm==1,!=2", "tqdm~=1.0"])
def test_a_requirement_without_an_exact_version_is_refused(requirement):
    loose = Library(name="tqdm", requirements=(requirement,), licence="", link="", layers=())
    with pytest.raises(ValueError, match=r"tqdm requires .*: should be exact versions"):
        _ = loose.pins


@pytest.mark.parametrize(("version", "word"), [(None, "not installed"), ("0.1.0", "0.1.0")])
def test_what_is_not_installed_as_it_should_be_is_named_with_what_to_install(monkeypatch, capsys, tmp_path, version, word):
    monkeypatch.setattr(third_party, "_installed", lambda name: version)
    assert main(["third-party", "torchtune", "--run-folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"torchtune: torchtune is {word}, should be 0.6.1; torchao is {word}, should be 0.17.0." in error
    assert "pip install torchtune==0.6.1 torchao==0.17.0, or nox -s third-party -- torchtune" in error


def test_a_build_s_own_name_is_no_other_version(monkeypatch):
    monkeypatch.setattr(third_party, "_installed", lambda name: {"torchtune": "0.6.1+cpu", "torchao": "0.17.0"}.get(name))
    assert [layer.page for layer in chosen([])] == ["torchtune-lora", "torchtune-dora"]
    assert [layer.page for layer in chosen(["torchtune-dora"])] == ["torchtune-dora"]


def test_unknown_names_checks_and_an_empty_environment_are_refused(monkeypatch, capsys, tmp_path):
    folder = ["--run-folder", str(tmp_path)]
    assert main(["third-party", "torchtunes", *folder]) == 2
    assert (
        f"unknown library or layer torchtunes; known: {libraries()[0].name}, {libraries()[0].layers[0].page}, "
        in capsys.readouterr().err
    )
    assert main(["third-party", "loralib", "--check", "foward", *folder]) == 2
    assert "unknown check foward" in capsys.readouterr().err
    assert main(["third-party", "loralib", "--case", "24x16", *folder]) == 2
    assert "case 24x16 is one of some check: name that, too" in capsys.readouterr().err
    monkeypatch.setattr(third_party, "_installed", lambda name: None)
    assert main(["third-party", *folder]) == 2
    assert f"none of {', '.join(library.name for library in libraries())} is installed" in capsys.readouterr().err


def test_loralib_is_lora_and_what_is_kept_of_it_has_the_same_cells():
    (layer,), (library,) = chosen(["loralib"]).keys(), chosen(["loralib"]).values()
    whole = certified(layer)
    assert whole.red == set()
    assert whole.cells["seed parity", "peft"] is Verdict.IDENTICAL
    kept = condensed(layer, library, whole)
    assert kept.certificate.cells == whole.cells
    assert kept.certificate.verdict == whole.verdict
    assert kept.counted[0] == len(whole) > 4 * len(kept.measurements)
    assert kept.made_with["loralib"] == library.release
    assert {m.reason for m in kept.measurements} == {m.reason for m in whole}


def test_of_each_cell_one_measurement_is_kept_for_every_verdict_and_reason_and_it_is_the_largest():
    layer = LAYERS["loralib-lora"]
    kinds = [
        {"verdict": verdict, "reason": reason, "evidence": evidence}
        for verdict, reason, evidence in [
            (Verdict.EQUIVALENT, "", True),
            (Verdict.FAILS, "", True),
            (Verdict.DIVERGES, "a: because", True),
            (Verdict.DIVERGES, "b: because", True),
            (Verdict.NOT_APPLICABLE, "small", True),
            (Verdict.NOT_APPLICABLE, "small", False),
        ]
    ]
    cell = {"variant": "lora", "candidate": "x", "version": "", "check": "forward", "unit": "u64", "bound": 2.0}
    everything = [
        Measurement(**cell, **kind, reference=reference, error=error, case_id=f"{number}")
        for number, (reference, kind, error) in enumerate(itertools.product(("peft", "author"), kinds, (1.0, 3.0, 2.0)))
    ]
    kept = condensed(
        layer, next(library for library in libraries() if layer in library.layers), Certificate("lora", tuple(everything))
    )
    assert kept.measurements == tuple(everything[1::3])
    assert kept.counted == (36, 36, 0)


@pytest.mark.parametrize(("factor", "status", "verdict"), [(1.0, 0, "faithful"), (1 + 1e-6, 1, "buggy")])
def test_a_run_becomes_data_and_the_data_become_a_page(fake, capsys, tmp_path, factor, status, verdict):
    fake(factor)
    reports, run = tmp_path / "reports", tmp_path / "run"
    assert report.pages(reports, run) == {}
    assert main(["third-party", "--run-folder", str(run)]) == status
    assert f"lora: {verdict}" in capsys.readouterr().out
    pages = report.pages(reports, run)
    folder = reports / "third-party"
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert report.pages(reports, None) == pages == report.pages(reports, run)
    page = pages[folder / "fake-lora.md"]
    assert page.startswith(
        f"# fake-lora: is it lora?\n\n`tqdm.Low` of [tqdm](https://example.org) (MPL-2.0), certified with tqdm {metadata.version('tqdm')}."
    )
    assert f"**{verdict}**" in page
    assert 'python -m conformance third-party fake-lora --check "forward" --case "' in page
    assert "| [fake-lora](fake-lora.md) | lora | ![" + verdict in pages[folder / "README.md"]
    assert f'"message": "{verdict}"' in pages[folder / "badges" / "fake-lora.json"]
    for link in re.findall(r"\]\((?!#|https:)([^)#]*)\)", page):
        assert (folder / link).is_file()


def test_a_new_run_comes_before_the_committed_data(fake, tmp_path):
    layer = fake()
    kept = condensed(layer, libraries_of(layer), certified(layer))
    for name, value in (("reports", kept), ("run", replace(kept, counted=(7, 7, 7)))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, value)
    path = tmp_path / "reports" / "third-party" / "fake-lora.md"
    assert "7 measurements in 7 cases" in report.pages(tmp_path / "reports", tmp_path / "run")[path]
    assert "7 measurements in 7 cases" not in report.pages(tmp_path / "reports", None)[path]


def libraries_of(layer):
    return next(library for library in report.libraries() if layer in library.layers)


def test_a_narrowed_run_is_shown_and_not_kept(fake, capsys, tmp_path):
    fake(1 + 1e-6)
    assert main(["third-party", "fake-lora", "--check", "forward", "--run-folder", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    again = re.search(r'again: python -m conformance (third-party fake-lora) --check "(.*)" --case "(.*)"', printed)
    assert main([*again[1].split(), "--check", again[2], "--case", again[3], "--run-folder", str(tmp_path)]) == 1
    assert again[3] in capsys.readouterr().out
    assert read(tmp_path, "fake-lora") is None


def test_damaged_data_are_an_error_that_names_them(tmp_path):
    (tmp_path / "third-party").mkdir()
    for text in ("{", "[]", '{"counted": []}'):
        (tmp_path / "third-party" / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json is damaged .* nox -s third-party"):
            read(tmp_path, "x")


def test_every_layer_has_its_page_of_the_release_that_is_declared_and_all_are_made_of_their_data():
    pages = report.pages(REPORTS, None)
    for path, text in pages.items():
        assert path.read_text() == text, path
    assert {path for path in (REPORTS / "third-party").rglob("*") if path.is_file()} == set(pages)
    for library in libraries():
        for layer in library.layers:
            kept = read(REPORTS, layer.page)
            assert to_json(kept) == (REPORTS / "third-party" / f"{layer.page}.json").read_text()
            assert {name: kept.made_with[name].partition("+")[0] for name in library.pins} == library.pins
            assert kept.variant == layer.variant
            shown = {m.reason.partition(":")[0] for m in kept.measurements if m.verdict is Verdict.DIVERGES}
            assert {divergence.id for divergence in layer.divergences} <= shown


def test_a_page_is_red_if_and_only_if_a_bug_is_found_that_says_so():
    red = {page for page in LAYERS if read(REPORTS, page).certificate.red}
    assert red == {finding.page for finding in FINDINGS if finding.page}
