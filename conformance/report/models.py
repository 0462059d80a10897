"""The page of whole models: variant × model, what was asked, and what each model stands for."""

from collections.abc import Mapping

from conformance.report.markdown import bullets, section, table
from conformance.report.model_grid import failures, grid
from conformance.report.sections import footnotes, made_with
from conformance.whole.results import Sheet
from refs.models import MODELS

INTRODUCTION = """Is a layer that is right alone right in a model? lite is attached to one copy of a base, peft wrapped around another; every
trainable is moved away from its start, to the same numbers, until the output has moved by a twentieth of its norm or more. Compared in float64: which layers
are adapted, which tensors are trained, the loss, the logits or the last hidden state, and the gradient of every adapter parameter by
name, in eval mode and in train mode with dropout in base and adapter; no parameter of the base gets a gradient. A cell holds the worst verdict and
the error that is closest to its bound."""
GROUPS = {
    "targets": "the layers that the same names select on both sides, and the tensors that are trained",
    "base": "no parameter of the base is trained or gets a gradient",
    "eval": "loss, output and every gradient without dropout",
    "train": "the same with dropout of 0.1 in the base, and in adapters that have it, from one seed",
    "checkpointing": "activations computed again while going back give the same bits as those that are kept; float32, with dropout",
    "aot_eager": '`torch.compile(backend="aot_eager")` of one block: the same trace as without; all variants on bert, LoRA everywhere',
    "run": "cells that could not be run, with the reason",
}
BOUND = """κ of a tensor is its largest relative change when every weight, every parameter and the result of every operation moves by one float32
rounding, measured on peft's model; the bound is 8·√n·κ·u64 as for layers, n the longest sum of a layer. transformers takes norms and softmax in float32
whatever a model's dtype: for these comparisons they are taken in float64. Adapted models have to move the output by 1e-2 … 10 of its norm, and
everything that is compared has to be non-zero in peft, else the cell is `untested`. PiSSA, OLoRA, EVA and CorDA start in lite, from the text where they need data; beside them stands peft's
plain LoRA of the same ranks on the same residuals. LoRA-XS stands beside peft's TinyLoRA, whose projections are set to be the same function."""


def page(sheets: Mapping[str, Sheet]) -> str:
    """In markdown; empty if whole models were never run."""
    if not (sheet := sheets.get("model")):
        return ""
    notes: list[str] = []
    parts = [
        "# Whole models",
        INTRODUCTION,
        section("Verdicts", grid(sheet.rows, notes), footnotes(notes)),
        section("What is asked", bullets((f"**{name}**: {what}" for name, what in GROUPS.items()), ""), _groups(sheet)),
        section("Compilation of every variant on every model", *_compilation(sheets)),
        section(
            "Red",
            bullets(failures(row for name in ("model", "compilation") if name in sheets for row in sheets[name].rows), "Nothing."),
        ),
        section("The models", table(["model", "what a layer meets in it"], [[m.name, m.stands_for] for m in MODELS.values()])),
        section("Bounds", BOUND),
        section(
            "Reproduce",
            '`nox -s conformance -- -k test_model`; one cell: `python -m pytest conformance/whole -k "test_model[delora-llama]"`.',
            made_with(sheet.machine),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _groups(sheet: Sheet) -> str:
    """Variant × group, over all models."""
    return grid((row for row in sheet.rows if row.group != "run"), [], lambda row: row.group)


def _compilation(sheets: Mapping[str, Sheet]) -> list[str]:
    if not (sheet := sheets.get("compilation")):
        return ["Not run yet: `nox -s training`."]
    notes: list[str] = []
    text = "aot_eager everywhere, inductor on bert: one block in float32, beside the same model uncompiled, against float64. `nox -s training`."
    return [text, grid((row for row in sheet.rows if row.group != "inductor"), notes), _inductor(sheet), footnotes(notes)]


def _inductor(sheet: Sheet) -> str:
    notes: list[str] = []
    asked = grid(
        (row for row in sheet.rows if row.group == "inductor" and row.model == "bert"), notes, lambda row: f"inductor, {row.model}"
    )
    return f"{asked}\n\n{footnotes(notes)}".strip()
