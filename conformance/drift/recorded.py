"""What one release computes: python -m conformance.drift.recorded FOLDER writes it, in a process that has this release."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from conformance import runs
from conformance.jobs import jobs
from conformance.suite import Suite
from conformance.suite_of import suite_of
from conformance.terminal import cell_text
from conformance.variants import known
from conformance.verdict import PAIR, Measurement, Verdict, by_cell, worst
from refs.case import Case
from refs.formula import Formula
from refs.installed import VERSION
from refs.peft_layer import PeftLayer
from refs.problem import problem
from refs.threads import one_thread

TRACES, ABOUT = "traces.safetensors", "about.json"


@dataclass(frozen=True)
class Release:
    """What one release does.

    numbers: "VARIANT|REFERENCE|CASE|WHAT" → tensor. raised: "VARIANT|REFERENCE|CASE|PART" → the exception instead of numbers.
    verdicts: variant → of lite beside it. missing: variant → why there is nothing. failures: variant → what is red, in words.
    divergences: ids of what is documented and was seen.
    """

    version: str
    numbers: dict[str, Tensor]
    raised: dict[str, str]
    verdicts: dict[str, str]
    missing: dict[str, str]
    failures: dict[str, list[str]]
    divergences: list[str]


def read(folder: Path) -> Release:
    """What the child wrote."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return Release(numbers=load_file(folder / TRACES), **about)


def main(folder: Path) -> None:
    """Run everything and write it; a line on standard output per variant, so that whoever waits sees progress."""
    numbers: dict[str, Tensor] = {}
    about: dict[str, Any] = {"version": VERSION, "raised": {}, "verdicts": {}, "missing": {}, "failures": {}, "divergences": []}
    for variant in known():
        suite = suite_of(variant).small.for_others  # what is documented need not be there in another release
        layers = [reference for reference in suite.references if isinstance(reference, PeftLayer)]
        if reasons := [reason for layer in layers if (reason := layer.missing())]:
            about["missing"][variant] = "; ".join(reasons)
        present = [layer for layer in layers if not layer.missing()]
        with one_thread():
            for layer in present:
                for name, value in _run(suite, layer):
                    key = f"{variant}|{layer.name}|{name}"
                    if isinstance(value, str):
                        about["raised"][key] = value
                    else:
                        numbers[key] = value
        if present:
            # A case that one layer cannot start is judged beside none: a variant has one layer of peft's, or two that are alike.
            raised = {name.split("|")[2]: text for name, text in about["raised"].items() if _cannot_start(name, variant)}
            _judge(replace(suite, cases=tuple(case for case in suite.cases if case.id not in raised)), about)
            about["failures"][variant] += [f"{case}: {text}" for case, text in raised.items()]
        print(variant, flush=True)  # noqa: T201
    about["divergences"] = sorted(set(about["divergences"]))
    save_file(numbers, folder / TRACES)
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def _run(suite: Suite, layer: PeftLayer) -> Iterator[tuple[str, Tensor | str]]:
    """Start, trace, and the weight after merging and unmerging; the exception's text where one is raised."""
    for case in _cases(suite):
        if layer.refuses(case):
            continue
        for part in (_start, _traced, _merged):
            try:
                made = {f"{case.id}|{what}": value.contiguous() for what, value in part(layer, case, suite.formula).items()}
            except Exception as error:  # a release may raise anything
                yield (
                    f"{case.id}|{part.__name__[1:]}",
                    f"{type(error).__name__}: {re.split(r'[.]? *$|[.] |: *$', str(error), maxsplit=1, flags=re.MULTILINE)[0]}",
                )
            else:
                yield from made.items()


def _cases(suite: Suite) -> Iterator[Case]:
    """The suite's, and a square Conv1D, whose weight can be taken the wrong way round without raising anything."""
    yield from suite.cases
    yield from (suite.fit(case.but(d_out=case.d_in)) for case in suite.cases if case.layer == "conv1d")


def _start(layer: PeftLayer, case: Case, formula: Formula) -> dict[str, Tensor]:
    return {f"start of {name}": value for name, value in runs.started(layer, case.but(state="init"), formula, 0).items()}


def _traced(layer: PeftLayer, case: Case, formula: Formula) -> dict[str, Tensor]:
    return dict(runs.at_values(layer, case, formula))


def _merged(layer: PeftLayer, case: Case, formula: Formula) -> dict[str, Tensor]:
    numbers = problem(case, formula)
    subject = runs.build(layer, case, formula)
    subject.write(numbers.parameters | numbers.frozen)
    module: Any = subject.module
    base = module.get_base_layer()
    module.merge()
    merged = {f"merged {name}": value.clone() for name, value in base.state_dict().items()}
    module.unmerge()
    return merged | {f"unmerged {name}": value for name, value in base.state_dict().items()}


def _cannot_start(name: str, variant: str) -> bool:
    """Whether what was raised says that the release cannot even build a case of this variant; the others are judged without it."""
    return name.startswith(f"{variant}|") and name.endswith("|start")


def _judge(suite: Suite, about: dict[str, Any]) -> None:
    """Lite beside this release, and this release beside the closed form."""
    measured: list[Measurement] = []
    for job in jobs(suite):
        columns = [side for side in (job.reference, job.candidate) if isinstance(side, PeftLayer)]
        others = {side.name for side in (job.reference, job.candidate) if side} - {side.name for side in columns}
        if columns and others <= {"closed form", suite.candidate.name}:
            measured += job.measure()
    own = [m for m in measured if PAIR not in m.reference]
    about["verdicts"][suite.variant] = str(worst(own))
    about["divergences"] += [m.reason.partition(":")[0] for m in measured if m.verdict is Verdict.DIVERGES]
    about["failures"][suite.variant] = [
        f"{check} of {column}: {cell_text(cell, []).partition(' [')[0]}"
        for (check, column), cell in by_cell(measured).items()
        if worst(cell).is_red
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
