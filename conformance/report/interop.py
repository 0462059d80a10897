"""The page of what crosses between lite and peft, and of what is merged."""

from collections.abc import Mapping

import lite
from conformance.report.markdown import table
from conformance.report.model_grid import grid
from conformance.report.sections import footnotes, made_with
from conformance.whole import interop, merging
from conformance.whole.results import Sheet

FILE, TITLE = "interop.md", "Interop and merge"
INTRODUCTION = """Does a model that was adapted by one library compute the same in the other? `lite.export_peft(model, folder)` writes what
`PeftModel.from_pretrained` loads; `lite.load_peft(model, folder)` reads what `save_pretrained` wrote. Every cell is measured: on a base of its
own, trained numbers away from their start, outputs in float64 (PiSSA and OLoRA of peft's making in float32, the only dtype that peft takes them apart in). MiniLM is
shown with one of its blocks. What cannot cross is refused, and the reason is the library's own."""
SAYS = {
    interop.OUT: "peft loads what lite exported, without a warning, and computes the same.",
    interop.BACK: "lite loads what it exported: bit for bit the same tensors, base weights included.",
    interop.IN: "lite loads what peft saved, and computes the same with the same numbers.",
    interop.AGAIN: "What lite exports of that holds peft's tensors bit for bit.",
}
MERGED = """`lite.merge(model)`: the merged model's output beside the adapted one's in float64 and in float32, its weights beside those that peft merges, and
that it is a plain model afterwards, which refuses to be merged or detached again."""


def page(sheets: Mapping[str, Sheet]) -> str:
    """In markdown; "" where it was never run."""
    if interop.CHECK not in sheets:
        return ""
    notes: list[str] = []
    rows = sheets[interop.CHECK].rows
    parts = [f"# {TITLE}", INTRODUCTION, "## What is written", _forms()]
    for way, says in SAYS.items():
        parts += [f"## {way}", says, grid([row for row in rows if row.group in (way, "run")], notes)]
    if merging.CHECK in sheets:
        parts += ["## merge", MERGED, grid(sheets[merging.CHECK].rows, notes)]
    parts += [footnotes(notes), f"{sum(row.count for row in rows)} measurements. {made_with(sheets[interop.CHECK].machine)}"]
    return "\n\n".join(parts) + "\n"


def _forms() -> str:
    lines = []
    for name, variant in sorted(lite.VARIANTS.items()):
        form = variant.peft_form
        how = " ".join((form.to_peft.__doc__ or "").split()) if form and form.to_peft else "tensor for tensor" if form else ""
        lines.append(
            [name, form.type if form else "none: refused", how or "–", "yes" if form and form.conv1d else "no" if form else "–"]
        )
    return table(["variant", "peft's type", "form", "Conv1D"], lines)
