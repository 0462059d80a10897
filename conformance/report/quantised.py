"""The page of quantised bases: what each variant does on them, what peft does, and whether it is the same."""

from collections.abc import Mapping, Sequence

from conformance.report.markdown import table
from conformance.report.model_grid import cell, worst_of
from conformance.report.sections import footnotes, made_with
from conformance.verdict import Verdict
from conformance.whole.quantised import CHECK, DEQUANTISES, LACKS, LITE, OTHERWISE, PEFT, REFUSES, RELEASE, SAME
from conformance.whole.results import Row, Sheet

FILE, TITLE = "quantised.md", "Quantised bases"
WORDS = {REFUSES: "refuses", LACKS: "has none", OTHERWISE: "another function", DEQUANTISES: "works, dequantises"}
INTRODUCTION = """A tiny Llama, loaded the way transformers loads it with a `BitsAndBytesConfig`, on the CPU: its linear layers keep 4-bit (NF4) or 8-bit codes.

**lite** works where the method never reads the weight. Nothing is dequantised: an adapter changes what goes into a layer or what comes out. `works`
means: in train mode, computing in float32 and in bfloat16, a finite loss, a gradient for every trainable (in the first block it has passed the quantised layers of
the second one) and none for the base; a file comes back bit for bit and is refused on twice the weights, whose codes are the same; `detach` leaves codes, scales and hooks as
they were. A method that reads the weight refuses before anything is touched.

**peft** is asked with its own start: `works` means that this start is the model, and that every trainable gets a gradient.

**lite beside peft** compares logits, loss and every gradient of both with the same numbers, away from their start, in float32: within 8·√n·κ·u32, κ from moving every number
of the model that is no code by one rounding."""


def page(sheets: Mapping[str, Sheet]) -> str:
    """In markdown; "" where it was never run."""
    if CHECK not in sheets:
        return ""
    sheet, notes = sheets[CHECK], list[str]()
    formats = list(dict.fromkeys(row.model for row in sheet.rows))
    header = ["variant", *(f"{name}, {group}" for name in formats for group in (LITE, PEFT, SAME))]
    lines = [
        [variant, *(part for name in formats for part in _cells(sheet.cell(variant, name), notes))]
        for variant in dict.fromkeys(row.variant for row in sheet.rows)
    ]
    return "\n\n".join([f"# {TITLE}", INTRODUCTION, table(header, lines), footnotes(notes), _made_with(sheet)]) + "\n"


def _cells(rows: Sequence[Row], notes: list[str]) -> list[str]:
    """What lite does, what peft does, and whether it is the same."""
    failed = [row for row in rows if row.group == "run"]
    return [
        *(
            _alone(who, [row for row in rows if row.group.startswith(who) and row.group != SAME] + failed, notes)
            for who in (LITE, PEFT)
        ),
        cell([row for row in rows if row.group == SAME] + failed, notes),
    ]


def _alone(who: str, rows: Sequence[Row], notes: list[str]) -> str:
    """Works, refuses with the reason, or what else the verdict is."""
    if not rows or (verdict := worst_of(rows)).is_red or verdict is Verdict.UNTESTED:
        return cell(rows, notes)
    for group, word in WORDS.items():
        if told := [row for row in rows if row.group == who + group]:
            return word + cell(told, notes).removeprefix(str(told[0].verdict))
    return "works"


def _made_with(sheet: Sheet) -> str:
    releases = sorted({row.shown.reason for row in sheet.rows if row.group == RELEASE})
    used = dict(release.split(maxsplit=1) for release in releases) | sheet.machine
    return f"{sum(row.count for row in sheet.rows)} measurements. {made_with(used)}"
