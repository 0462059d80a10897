"""The checks of starts, of data and of generated shapes: each passes lite, and fails what is broken in its own way."""

import dataclasses

import pytest
import torch

from conformance.jobs import jobs
from conformance.suite_of import suite_of
from conformance.suites.lite_layers import LiteLayer, LiteRuntime
from conformance.verdict import Verdict, worst
from refs import lora
from refs.calibration import batches, calls
from refs.case import Case
from refs.formula import RESIDUAL


def small(variant):
    return dataclasses.replace(suite_of(variant), cases=suite_of(variant).cases[:1], divergences=())


def found(variant, check, candidate=None, reference="closed form", only=None):
    """What one cell measures of a candidate, lite by default."""
    suite = small(variant)
    candidate = candidate or suite.candidate
    own = [job for job in jobs(suite, candidate) if job.check.name == check]
    return next(job for job in own if job.reference is None or job.reference.name == reference).measure(only)


def changed(variant, change=lambda subject, case: subject, data=lambda batch: batch, attach=None):
    """Lite's layers and runtime with something broken."""

    class Runtime(LiteRuntime):
        def attach(self, model, *requests, data=None):
            (attach or LiteRuntime.attach)(self, model, *requests, data=data)

    class Changed(LiteLayer):
        def build(self, case, problem):
            given = dataclasses.replace(problem, data=tuple(map(data, problem.data)))
            subject = super().build(case, given)
            with torch.no_grad():
                return change(subject, case) or subject

        @property
        def lifecycle(self):
            return Runtime(self.variant, self.small)

    return Changed(variant, suite_of(variant).formula, suite_of(variant).candidate.small)


def in_float32(subject, case):
    for name in subject.map:
        subject.write({name: subject.read(name).float().double()})


def test_a_start_in_float32_is_capped_and_a_wrong_one_fails():
    assert worst(found("pissa", "init")) in (Verdict.IDENTICAL, Verdict.EQUIVALENT)
    capped = found("pissa", "init", changed("pissa", in_float32))
    assert worst(capped) is Verdict.CAPPED
    assert {m.reason for m in capped if m.verdict is Verdict.CAPPED} == {"lite computes it in float32"}

    def wrong(subject, case):
        subject["lora_A"].mul_(1 + 1e-5)

    assert worst(found("pissa", "init", changed("pissa", wrong))) is Verdict.FAILS


def test_a_reference_that_computes_in_float32_is_equivalent_with_the_reason():
    among = [job for job in jobs(small("pissa")) if job.id == "peft_vs_closed_form-init"]
    told = [m for m in among[0].measure() if m.what == "lora_A"]
    assert [m.verdict for m in told] == [Verdict.EQUIVALENT]
    assert "peft computes it in float32" in told[0].reason
    mine = [m for m in found("pissa", "init", reference="peft") if m.what == "lora_A"]
    assert [(m.verdict, m.reason) for m in mine] == [(Verdict.EQUIVALENT, "peft computes it in float32")]


def test_factors_that_are_rounded_after_the_residual_is_formed_fail():
    def rounded_after(subject, case):
        if case.dtype == "bfloat16":
            W = (
                subject.read(RESIDUAL).double()
                + lora.scale(case) * subject.read("lora_B").double() @ subject.read("lora_A").double()
            )
            U, S, Vh = torch.linalg.svd(W, full_matrices=False)
            root = (S[: case.rank] / lora.scale(case)).sqrt()
            A, B = root[:, None] * Vh[: case.rank], U[:, : case.rank] * root
            subject.write({"lora_A": A, "lora_B": B, RESIDUAL: W - lora.scale(case) * B @ A})

    failed = [m for m in found("pissa", "init", changed("pissa", rounded_after)) if m.verdict.is_red]
    assert [m.what for m in failed] == ["W_res + s·B·A"]
    assert [Case.parse(m.case).dtype for m in failed] == ["bfloat16"]


@pytest.mark.parametrize("factor", [0.0, 0.1, 10.0])
def test_a_nearly_zero_start_of_another_size_fails(factor):
    def scaled(subject, case):
        subject["lora_R"].mul_(factor)

    assert worst(found("lora_xs", "identity")) is Verdict.EQUIVALENT
    failed = [m.what for m in found("lora_xs", "identity", changed("lora_xs", scaled)) if m.verdict.is_red]
    assert failed == ["size of the start"]


@pytest.mark.parametrize(("factor", "shift"), [(1, -4e-4), (-1, 0), (1.3, -1.2e-4)], ids=["mean 0", "mean negative", "spread"])
def test_a_normal_start_around_another_mean_or_with_another_spread_fails(factor, shift):
    def moved(subject, case):
        subject["lora_delta_s"].mul_(factor).add_(shift)

    assert worst(found("antipasto_rot", "init")) is Verdict.EQUIVALENT
    failed = [m for m in found("antipasto_rot", "init", changed("antipasto_rot", moved)) if m.verdict.is_red]
    assert [m.what for m in failed] == ["lora_delta_s"]
    assert failed[0].should == "(4,) normal with standard deviation 0.0004 around 0.0004"


def uncentred(subject, case):
    tokens = torch.cat(calls(batches(case), labels=True)["layer"])
    subject.write({"lora_A": torch.linalg.svd(tokens, full_matrices=False).Vh[: len(subject["lora_A"])]})


def unmasked(batch):
    return dataclasses.replace(batch, attention=None, labels=None)


def other_inputs(self, model, *requests, data=None):
    twice = [batch | {"x": 2 * batch["x"]} for batch in data] if data and isinstance(data[0], dict) else data
    LiteRuntime.attach(self, model, *requests, data=twice)


def counts_padding(self, model, *requests, data=None):
    ones = data
    if data and isinstance(data[0], dict) and "attention_mask" in data[0] and data[0]["attention_mask"].any():
        ones = [batch | {"attention_mask": torch.ones_like(batch["attention_mask"])} for batch in data]
    LiteRuntime.attach(self, model, *requests, data=ones)


def other_layer(self, model, *requests, data=None):
    LiteRuntime.attach(self, model, *requests, data=data)
    with torch.no_grad():
        model.q.lora_A.copy_(model.q.lora_A.roll(1, dims=1))


def refuses_nothing(self, model, *requests, data=None):
    try:
        LiteRuntime.attach(self, model, *requests, data=data)
    except ValueError:
        model.q.weight.mul_(1)


CALIBRATIONS = {
    "inputs that are not centred": ({"change": uncentred}, "lora_A"),
    "garbage counted in a layer": ({"data": unmasked}, "lora_A"),
    "other inputs": ({"attach": other_inputs}, "what q receives"),
    "padding counted in a model": ({"attach": counts_padding}, "garbage in masked tokens"),
    "another layer's start": ({"attach": other_layer}, "lora_A of q"),
    "no refusal": ({"attach": refuses_nothing}, "an empty iterable"),
}


@pytest.mark.parametrize("variant", ["eva", "corda"])
def test_the_calibration_check_passes_lite(variant):
    assert not worst(found(variant, "calibration")).is_red


@pytest.mark.parametrize("variant", ["eva", "corda"])
@pytest.mark.parametrize(("how", "what"), CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_the_calibration_check_fails_what_is_broken(variant, how, what):
    failed = {m.what for m in found(variant, "calibration", changed(variant, **how)) if m.verdict.is_red}
    assert any(name.startswith(what) for name in failed), failed


def taller(subject, case):
    if case.d_out > case.d_in:
        return dataclasses.replace(subject, call=lambda x: subject.call(x) * (1 + 1e-6))
    return None


def test_the_sweep_finds_what_shows_for_one_kind_of_shape_and_its_case_is_run_again():
    def swept(only=None):
        return found("lora", "shape sweep", changed("lora", taller), only=only)

    one = swept()
    assert [m.verdict for m in one] == [Verdict.FAILS]
    case = Case.parse(one[0].case)
    assert case.d_out > case.d_in
    assert (case.d_in, case.batch, case.seed) == (2, (1,), 0)  # shrunk
    assert swept() == one
    again = swept(only=one[0].case)
    assert [m for m in again if m.what == one[0].what] == one
    assert {m.case for m in again} == {one[0].case}


def test_the_sweep_tells_what_a_layer_raises_from_what_it_measures():
    def raising(subject, case):
        assert case.d_out <= case.d_in, "planted"

    failed = found("lora", "shape sweep", changed("lora", raising))
    assert [m.verdict for m in failed] == [Verdict.ERROR]
    assert "planted" in failed[0].got
    assert failed[0].case


@pytest.mark.parametrize(("side", "verdict"), [("candidate", Verdict.UNTESTED), ("reference", Verdict.NOT_APPLICABLE)])
def test_a_sweep_that_measures_nothing_is_excused_by_the_reference_alone(side, verdict):
    class Refusing(LiteLayer):
        def refuses(self, case):
            return "nothing at all" if (case.d_in, case.d_out) != (24, 16) or side == "reference" else None

    layer = Refusing("lora", lora.FORMULA)
    suite = small("lora")
    if side == "reference":
        silent = dataclasses.replace(suite.references[0], name="silent", unable=lambda case: "does nothing")
        suite, layer = dataclasses.replace(suite, references=(silent,)), suite.candidate
    cell = [job for job in jobs(suite, layer) if job.check.name == "shape sweep" and not job.reference.is_fixed][-1]
    assert worst(cell.measure()) is verdict
