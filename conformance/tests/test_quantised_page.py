"""The page of quantised bases says something in every cell, also where the library is not installed."""

from conformance.report import quantised as page
from conformance.variants import known
from conformance.verdict import Measurement, Verdict
from conformance.whole import quantised
from conformance.whole.cell import on_models
from conformance.whole.results import Sheet, summed_up
from refs.quantised import QUANTISED, Quantised


def rendered(measurements):
    return page.page({quantised.CHECK: Sheet(quantised.CHECK, True, {"torch": "2"}, summed_up(measurements))})


def lines(text):
    return {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if line.startswith("| ") and len(cells := line.strip("| ").split(" | ")) > 1
    }


def measurement(group, verdict, **more):
    return Measurement(
        variant="hra",
        candidate="lite",
        reference="peft",
        version="",
        check="quantised",
        verdict=verdict,
        case_id="nf4",
        what=group,
        **more,
    )


def test_without_the_library_every_cell_is_untested_with_the_reason(monkeypatch):
    monkeypatch.setattr(Quantised, "missing", lambda self: "not installed")
    cells = on_models(quantised.CHECK, known(), QUANTISED.values(), quantised.measured)
    found = lines(rendered([m for cell in cells for m in cell.measure()]))
    assert {variant: found[variant] for variant in known()} == {variant: ["untested [1]"] * 6 for variant in known()}


def test_each_word_and_its_reason():
    text = rendered([
        measurement("lite: loss", Verdict.IDENTICAL),
        measurement("peft: gradients", Verdict.IDENTICAL),
        measurement("peft dequantises", Verdict.NOT_APPLICABLE, reason="at its start"),
        measurement("lite beside peft: loss", Verdict.EQUIVALENT, error=3.0, bound=9.0, unit="u32"),
    ])  # fmt: skip
    assert lines(text)["hra"] == ["works", "works, dequantises [1]", "equivalent ≤ 4 u32"]
    assert "[1] at its start" in text


def test_refusals_and_other_functions():
    text = rendered([
        measurement("lite: touched by the refusal", Verdict.IDENTICAL),
        measurement("lite refuses", Verdict.NOT_APPLICABLE, reason="reads the weight"),
        measurement("peft: gradients", Verdict.IDENTICAL),
        measurement("peft does otherwise: start", Verdict.DIVERGES, reason="takes the codes for it"),
        measurement("lite beside peft", Verdict.NOT_APPLICABLE, reason="nothing to compare"),
    ])  # fmt: skip
    assert lines(text)["hra"] == ["refuses [1]", "another function [2]", "not applicable [3]"]


def test_what_fails_is_shown_as_that():
    text = rendered(
        [measurement("lite: file", Verdict.FAILS, got="loads", should="refused"), measurement("run", Verdict.ERROR, got="boom")]
    )
    assert lines(text)["hra"] == ["error", "error", "error"]
    text = rendered([
        measurement("lite: file", Verdict.FAILS, got="loads", should="refused"),
        measurement("lite refuses", Verdict.NOT_APPLICABLE, reason="?"),
    ])  # fmt: skip
    assert lines(text)["hra"][0] == "fails"
