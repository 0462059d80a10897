"""The page of the search, rendered from what the last whole one found."""

from conformance.report.markdown import bullets, section, table
from conformance.report.sections import made_with
from conformance.search_results import Found, Searched
from conformance.terminal import reproduce
from conformance.verdict import Measurement, rounded_up

INTRODUCTION = """Does a right implementation ever look wrong? Cases are drawn as no grid has them, and the search climbs towards those that come
closest to their bounds. Shapes go from 1 up, the edges of one input, output or rank included; ranks, spectra, options, states,
modes and batches vary, and base weight, bias and input are each multiplied by 1e-3 … 1e3. A case in which the adapter does too little or
too much to be seen, or that a side refuses, is not counted. Large layers run on one torch thread or on two, then beside a
reference on one and on two. All of it is in float64, where the power is. An alarm is an error beyond its bound, or an exception."""


def page(findings: Searched) -> str:
    """Counts, the closest cases and the alarms, in markdown."""
    edges, threads = (sum(getattr(entry, kind) for entry in findings.found) for kind in ("edges", "threads"))
    counts = (
        f"**{findings.cases} cases, {len(findings.alarms)} alarms.** {edges} cases have a size or rank of one, {threads} run on two "
        f"threads; sizes go to {findings.largest}."
    )
    options = f"--cases {findings.asked} --largest {findings.largest} --seed {findings.seed}"
    return (
        "\n\n".join(
            [
                "# Search",
                INTRODUCTION,
                counts,
                section("Closest to the bound", table(HEADER, [_row(entry) for entry in findings.found])),
                section("Alarms", bullets((_alarm(m) for m in findings.alarms), "None.")),
                section("Each quantity", table(["variant", "reference", "what", "error / bound", "case"], _quantities(findings))),
                section("Reproduce", f"All of it: `nox -s search -- {options}`.", _commands(findings), made_with(findings.machine)),
            ]
        )
        + "\n"
    )


HEADER = ["variant", "reference", "version", "cases", "edges", "two threads", "error / bound", "what"]


def _row(entry: Found) -> list[str]:
    counts = [str(entry.cases), str(entry.edges), str(entry.threads)] if not entry.missing else [entry.missing, "", ""]
    closest = [entry.closeness, entry.worst.what if entry.worst else ""]
    return [f"[{entry.variant}]({entry.variant}.md)", entry.reference, entry.version, *counts, *closest]


def _quantities(findings: Searched) -> list[list[str]]:
    return [
        [entry.variant, entry.reference, m.what, f"≤ {rounded_up(m.ratio)}", f"`{m.case_id}`"]
        for entry in findings.found
        for m in entry.closest
    ]


def _alarm(m: Measurement) -> str:
    return f"**{m.variant}** against {m.reference}, {m.what}: got {m.got}, should be {m.should}; `{reproduce(m)}`"


def _commands(findings: Searched) -> str:
    lines = [f"`{reproduce(entry.worst)}`" for entry in findings.found if entry.worst]
    return "The closest case of each row:\n\n" + bullets(lines, "None.")
