"""The page of training: lite beside peft over 20 and over 100 steps, and interrupted in the middle."""

from collections.abc import Mapping

from conformance.report.markdown import bullets, section
from conformance.report.model_grid import failures, grid
from conformance.report.sections import footnotes, made_with
from conformance.whole.results import Row, Sheet

INTRODUCTION = """Do lite and peft stay the same function while they learn? Both are trained in float32 from the same perturbed parameters on real text, and so
is peft in float64, which is taken for the truth. Compared are all losses, and at the end every parameter and what the optimizer keeps
of it (AdamW: `exp_avg` and `exp_avg_sq`; SGD: the momentum), by name: lite may be at most 4 times (8 in the max norm) as far from
the truth as peft is, or as the trajectory's own sensitivity to one rounding of everything. *Resumed* is lite alone: half of the steps, `lite.save` and
the optimizer's state in files, a fresh base, `lite.load`, the other half; parameters, losses and optimizer are bit for bit those of the
uninterrupted run."""
SETTING = """AdamW with lr 1e-3 and weight decay 0.01, its eps the root mean square of the gradients at the start: with the default, a number whose gradient is a
rounding error would move as far as any other, in a direction that nobody determines. SGD with momentum 0.9, its step fitted to the same size. Each step sees another pair
of sentences. A trajectory in which a parameter moves by less than 1e-4 of its norm is `untested`. Two blocks of MiniLM are trained."""
CHECKS = {"training": "20 steps", "training of 100 steps": "100 steps"}


def page(sheets: Mapping[str, Sheet]) -> str:
    """In markdown; empty if nothing was trained yet."""
    there = [sheets[check] for check in CHECKS if check in sheets]
    if not there:
        return ""
    parts = [
        "# Training",
        INTRODUCTION,
        *(section(CHECKS[sheet.check], *_table(sheet)) for sheet in there),
        section("Red", bullets(failures(row for sheet in there for row in sheet.rows), "Nothing.")),
        section("Setting", SETTING),
        section(
            "Reproduce",
            "20 steps: `nox -s conformance -- -k test_training`; 100 steps: `nox -s training`.",
            made_with(there[0].machine),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(sheet: Sheet) -> list[str]:
    notes: list[str] = []

    def column(row: Row) -> str:
        return f"{row.model}, {row.group}"

    return [grid(sheet.rows, notes, column), footnotes(notes)]
