"""The audit page of a variant."""

from conformance.documentation import Documentation, mentions
from conformance.floor import D_IN, D_OUT, GOALS, wide
from conformance.floor import grid as floor_grid
from conformance.known_bugs import BUGS
from conformance.report.markdown import anchor, bullets, section, table
from conformance.report.sections import commands, footnotes, grid, made_with, open_points, opening
from conformance.report.summary import Summary
from conformance.runs import at_values
from conformance.suite import Suite
from conformance.verdict import PAIR, Verdict, peak, rounded_up
from refs.closed_form import ClosedForm
from refs.formula import Decomposed, Drawn, Exactly, Init, Normal, Uniform
from refs.problem import base


def page(suite: Suite, summary: Summary) -> str:
    """All sections, in markdown."""
    certificate, documentation = summary.certificate, suite.candidate.documentation
    assert documentation is not None
    notes: list[str] = []
    pairs = grid(certificate, notes, pairs=True)
    verdicts = grid(certificate, notes)
    return (
        "\n\n".join(
            [
                f"# {documentation.title}",
                opening(summary),
                section("Formulas", _formulas(suite, documentation)),
                section("References against each other", pairs, "Numbers in brackets: see below the verdict table."),
                section("Verdict table", verdicts, footnotes(notes)),
                section("Parameters", _parameters(suite, summary)),
                section("Divergences", _divergences(suite, summary, documentation)),
                section("What to fix next", open_points(certificate)),
                section("Known bugs that this suite catches", _bugs(summary)),
                section("Detection floor", *_floor(summary)),
                section("Errors and bounds", f"![errors and bounds](plots/{summary.variant}.svg)"),
                section("Reproduce", commands(certificate), made_with(certificate.machine)),
            ]
        )
        + "\n"
    )


def _formulas(suite: Suite, documentation: Documentation) -> str:
    names = {"closed form": "paper"}
    rows = [[names.get(r.name, r.name), f"`{r.equation}`", r.version] for r in suite.all_references]
    lite = " ".join(documentation.equation.split())
    notes = [f"**{name}:** {text}" for name, text in documentation.sections.items()]
    return "\n\n".join([table(["who", "formula", "where"], [*rows, ["lite", f"`{lite}`", documentation.location]]), *notes])


def _parameters(suite: Suite, summary: Summary) -> str:
    """Shapes in letters: the first case of a grid has no two equal sizes."""
    case = suite.cases[0]
    weight = base(case)[0]
    letters = {case.d_in: "d_in", case.d_out: "d_out", case.rank: "r"}
    inits = suite.formula.begin(case, weight).inits
    start = at_values(ClosedForm(suite.formula), case.but(state="init"), suite.formula)
    rows = []
    for name, shape in suite.formula.shapes(case, weight).items():
        kind = "trainable" if name in inits else "frozen"
        dead = ("yes" if not start[f"grad.{name}"].any() else "no") if name in inits else ""
        errors = [m.error for m in summary.measured if m.what == f"grad.{name}" and m.unit == "u64"]
        error = f"≤ {rounded_up(max(errors))} u64" if errors else ""
        symbols = "(" + ", ".join(str(letters.get(size, size)) for size in shape) + ("," if len(shape) == 1 else "") + ")"
        rows.append([f"`{name}`", symbols, kind, _start(inits.get(name)), dead, error])
    note = f"Starts as measured for d_in = {case.d_in}, d_out = {case.d_out}, r = {case.rank}."
    return f"{table(['name', 'shape', 'kind', 'start', 'dead at step 0', 'worst gradient error'], rows)}\n\n{note}"


def _start(init: Init | None) -> str:
    match init:
        case Uniform(bound, _, copies):
            return f"uniform within ±{bound:.4g}" + (f", every row {copies} times" if copies > 1 else "")
        case Normal(std, mean=mean):
            return f"normal, standard deviation {std:.4g}" + (f", mean {mean:.4g}" if mean else "")
        case Exactly(value):
            if not value.any():
                return "zero"
            same = bool((value == value.flatten()[0]).all())
            return f"{float(value.flatten()[0]):g}" if same else "from the base weight"
        case Drawn(std=std):
            return f"random, root mean square {std:.4g}"
        case Decomposed():
            return "from a decomposition"
        case None:
            return "from the base weight"


def _divergences(suite: Suite, summary: Summary, documentation: Documentation) -> str:
    rows = []
    for divergence in suite.divergences:
        seen = [m for m in summary.certificate if m.verdict is Verdict.DIVERGES and m.reason.startswith(f"{divergence.id}:")]
        tag = "*documented*" if mentions(documentation.header, divergence.id) else "*undocumented*"
        size = f"{rounded_up(max(m.error for m in seen))} {seen[0].unit}" if seen else "not there"
        rows.append(
            [divergence.id, tag, f"{divergence.check} against {divergence.reference}", divergence.reason, size, divergence.link]
        )
    for (check, reference), verdict in summary.certificate.cells.items():
        if verdict.is_red:
            shown = peak(m for m in summary.certificate if (m.check, m.reference) == (check, reference))
            tag = "*references disagree*" if PAIR in reference else "*bug*"
            what = f"{shown.what}: got {shown.got}, should be {shown.should}"
            rows.append(["", tag, f"{check} against {reference}", what, "", f"[{verdict}](#{anchor(check, reference)})"])
    return table(["id", "tag", "where", "what and why", "size", "link"], rows) if rows else "None: no reference differs from lite."


def _floor(summary: Summary) -> list[str]:
    header, *rows = floor_grid(summary.floors)
    goals = ", ".join(f"{goal:g} for {'a ' if kind == 'scale' else 'one '}{kind}" for kind, goal in GOALS.items())
    words = f"""The smallest error in the layer that turns its verdict, relative to what it changes, on a layer of {D_OUT} × {D_IN}. `delta` is what the adapter
adds to the output, with the gradients that follow; the other rows change a gradient alone. `sign`: size of the smallest element, relative
to the root mean square, whose turned sign is seen. In float64 at least one reference has to see {goals} of a gradient."""
    reasons = bullets(wide(summary.floors), "")
    return [words, table(header, rows), f"![detection floor](plots/{summary.variant}-floor.svg)", reasons]


def _bugs(summary: Summary) -> str:
    rows = [
        [f"`{bug.id}`", bug.description, bug.hidden_by, ", ".join(sorted(bug.red))]
        for bug in BUGS
        if bug.variant == summary.variant
    ]
    return table(["planted", "what is wrong", "hidden elsewhere by", "turns red"], rows)
