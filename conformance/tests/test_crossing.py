"""The checks "interop" and "merge" turn red for what they guard: bugs planted where adapters cross into peft and into the weights."""

import pytest

from conformance.known_bugs.bug import Bug
from conformance.known_bugs.plant import planted
from conformance.verdict import Verdict, worst
from conformance.whole import interop, merging
from conformance.whole.cell import Cell
from refs.models import SHORT

MODEL = SHORT["llama"]


def cell(check, variant, model=MODEL):
    return Cell(check.CHECK, variant, model.name, lambda record: check.measured(model, record))


def bug(where, old, new, variant="lora"):
    return Bug(
        id="planted", variant=variant, description="", effect="", source="", hidden_by="", where=where, old=old, new=new,
        red=frozenset(), message="",
    )  # fmt: skip


BUGS = {
    "a scale that peft takes otherwise": (interop, "pissa", bug("lite.variants.pissa:plain", "2 * config.r * lora.scale(config)", "config.alpha"), interop.OUT),
    "the start added once more": (interop, "corda", bug("lite.variants.pissa:to_plain", '-t["lora_B.start"]', 't["lora_B.start"]'), interop.OUT),
    "a start of the wrong sign on the way back": (interop, "asvd", bug("lite.variants.pissa:from_plain", '"lora_B.start": -B_start', '"lora_B.start": B_start'), interop.BACK),
    "ranks of layers that are lost": (interop, "eva", bug("lite.peft_export:_agreed", "said[per_layer[field]] =", "lost ="), "run"),
    "one target too many": (interop, "lora", bug("lite.peft_export:_config", '{"target_modules": names}', '{"target_modules": [*names, "lm_head"]}'), interop.OUT),
    "keys and values scaled in front": (interop, "ia3", bug("lite.peft_export:_config", "if forms[name].lists == field]", "]"), "run"),
    "tensors of one precision": (interop, "lora", bug("lite.files:content", "value.detach().cpu()", "value.detach().float().cpu()"), interop.BACK),
    "a map that is not turned back": (interop, "hra", bug("lite.peft_form:brought", "(value.T if turned else value)", "value.reshape(shape)"), interop.BACK),
    "layers in another order": (interop, "lora_xs", bug("lite.peft_load:_numbered", "found.setdefault(number, {})", "found.setdefault(str(13 - int(number)), {})"), interop.IN),
    "a rank pattern that is not read": (interop, "eva", bug("lite.peft_load:_of_layer", "own[field] = value", "pass"), "run"),
    "what was taken out taken out of another weight": (interop, "pissa", bug("lite.peft_load:_ours", "adapter.initial().items()", "{k: v * 1.01 for k, v in adapter.initial().items()}.items()"), interop.IN),
    "a merged scale": (merging, "dora", bug("lite.merging:merged_layer", "torch.cat(parts).T", "(torch.cat(parts).T * (1 + 1e-12))"), "output"),
    "a weight that is merged in the base's dtype": (merging, "lora", bug("lite.merging:merged_layer", "layer.weight.double()", "layer.weight.bfloat16().double()"), "output"),
    "a bias that is left as it was": (merging, "road", bug("lite.merging:merge", "if bias is not None:", "if False:"), "output"),
    "a hook that is left in place": (merging, "delora", bug("lite.merging:merge", "undo(attachment.model, attachment)", "pass"), "output"),
    "nobody knows that it was merged": (merging, "hra", bug("lite.merging:merge", "MERGED.add(attachment.model)", "pass"), "afterwards"),
    "Conv1D's weight is put back as it is": (merging, "lora", bug("lite.merging:merge", "weight.T.contiguous() if layer.transposed else weight", "weight"), "run"),
}  # fmt: skip
ELSEWHERE = {"a bias that is left as it was": SHORT["bert"], "Conv1D's weight is put back as it is": SHORT["gpt2"]}


@pytest.mark.parametrize(("check", "variant", "planted_bug", "group"), BUGS.values(), ids=BUGS)
def test_a_bug_turns_red(check, variant, planted_bug, group, request):
    name = request.node.callspec.id
    own = cell(check, variant, ELSEWHERE.get(name, MODEL))
    with planted(planted_bug):
        red = [m for m in own.measure() if m.verdict.is_red]
    assert red, "survived"
    assert {m.what.partition(": ")[0] for m in red} & {group}
    assert all(m.got and m.should for m in red)


@pytest.mark.parametrize("check", [interop, merging], ids=["interop", "merge"])
@pytest.mark.parametrize("variant", ["lora_xs", "antipasto"])
def test_nothing_is_red_without_one(check, variant):
    measured = cell(check, variant).measure()
    assert measured
    assert worst(measured) in (Verdict.IDENTICAL, Verdict.EQUIVALENT, Verdict.NOT_APPLICABLE)


def test_a_folder_of_ours_that_peft_warns_about_is_red():
    with planted(
        bug("lite.peft_export:_config", '"task_type": None,', '"task_type": None, "corda_config": {"corda_method": "ipm"},')
    ):
        red = [m for m in cell(interop, "lora").measure() if m.verdict.is_red]
    assert any(m.what == f"{interop.OUT}: warnings" for m in red)
