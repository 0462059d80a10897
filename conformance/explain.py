"""What a suite does, in words; and one cell of it again."""

from conformance.certificate import Certificate
from conformance.checks import CHECKS
from conformance.jobs import jobs
from conformance.suite import Suite
from conformance.suite_of import suite_of


def explain(variant: str, check: str | None = None) -> str:
    """The variant's formulas, references and checks, or one check with its cases; ValueError for an unknown check."""
    suite = suite_of(variant)
    if check is not None:
        return _check(suite, check)
    lines = [f"{variant}: {len(list(jobs(suite)))} cells on {len(suite.cases)} cases", ""]
    for reference in suite.all_references:
        lines += [f"{reference.name} ({reference.version})", f"    {reference.equation}"]
    if suite.candidate.documentation:
        documentation = suite.candidate.documentation
        lines += [f"{suite.candidate.name} ({documentation.location})", f"    {' '.join(documentation.equation.split())}"]
        lines += [f"    {name}: {text}" for name, text in documentation.sections.items()]
    lines += ["", *(f"{name}: {entry.sentence}" for name, entry in CHECKS.items())]
    lines += ["", *(f"{d.id} ({d.check} against {d.reference}): {d.reason} {d.link}" for d in suite.divergences)]
    return "\n".join(lines).rstrip()


def _check(suite: Suite, check: str) -> str:
    if check not in CHECKS:
        raise ValueError(f"unknown check {check!r}; known: {', '.join(CHECKS)}")
    entry = CHECKS[check]
    cells = [f"    {suite.variant}/{job.id}" for job in jobs(suite) if job.check is entry]
    cases = [f"    {case.id}" for case in suite.cases]
    return "\n".join(
        [
            f"{check}: {entry.sentence}",
            "",
            "cells, as `reproduce` takes them:",
            *cells,
            "",
            "cases (a check varies dtype, mode and state itself):",
            *cases,
        ]
    )


def reproduced(id_: str) -> Certificate:
    """The measurements of VARIANT/REFERENCE-CHECK[/CASE] again; ValueError that shows what there is for anything else."""
    variant, _, rest = id_.partition("/")
    cell, _, case = rest.partition("/")  # a case may be told in full, slashes and all
    suite = suite_of(variant)
    chosen = [job for job in jobs(suite) if job.id == cell]
    if not chosen:
        raise ValueError(f"{variant} has no cell {cell!r}; it has\n  " + "\n  ".join(job.id for job in jobs(suite)))
    measurements = tuple(chosen[0].measure(case or None))
    if not measurements:
        known = dict.fromkeys(m.case_id for m in chosen[0].measure())
        raise ValueError(f"{variant}/{cell} has no case {case!r}; it has {', '.join(known)}")
    return Certificate(variant, measurements, complete=False)
