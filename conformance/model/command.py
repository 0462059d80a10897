"""The command: a checkpoint, and an adapter of it, in; tables and an exit status out."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from conformance.model.checkpoint import load, some
from conformance.model.examine import Examined, Watch, all_measurements, examined
from conformance.model.saved import check_readable, rows, saved
from conformance.model.text import table, tables
from conformance.model.words import words
from conformance.parallel import bar
from conformance.suite_of import suite_of
from conformance.variants import check_known, known
from conformance.verdict import Measurement


def report(
    folder: Path, *, variants: Sequence[str], targets: Sequence[str], adapter: Path | None, text: Path | None, file: Path | None
) -> int:
    """Look at a model, print what was found, and write it to a file if one is named. Returns the exit status: 1 if something fails, or
    nothing was measured. Raises ValueError and OSError for input that cannot be used.
    """
    check_known(variants)
    _check_patterns(targets)
    if adapter is not None:
        check_readable(adapter)
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"--json {file}: there is no folder {file.parent}")
    checkpoint = load(folder)
    given = words(checkpoint, text)
    _say(f"{folder}: {checkpoint.title}; {given.about}")
    if checkpoint.unused:
        _say(f"  the model has no place for {some(checkpoint.unused)}")
    chosen = list(variants) or known()
    for variant in chosen:
        suite_of(variant)  # before the bar
    with bar() as progress:
        found = examined(checkpoint, given, chosen, targets, _watch(progress))
    _say(f"\n{tables(found)}")
    measured = all_measurements(found)
    if adapter is not None:
        own = saved(checkpoint, given, adapter)
        measured += own
        _say("\n" + table(f"the adapter {adapter}", ("what", "verdict", "got", "should be"), rows(own)))
    if file is not None:
        file.write_text(_json(folder, checkpoint.title, given.about, found, measured), encoding="utf-8", newline="\n")
    return 1 if any(m.verdict.is_red for m in measured) or not measured else 0


def _check_patterns(targets: Sequence[str]) -> None:
    for pattern in targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"--targets {pattern!r} is no regular expression: {error}") from error


def _watch(progress: Progress) -> Watch:
    task = progress.add_task("one pass through the model", total=None)
    return lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _json(folder: Path, title: str, about: str, found: Sequence[Examined], measured: Sequence[Measurement]) -> str:
    """Everything, for programs."""
    layers = [{"layer": row.layer, "relative": row.relative} | row.measurement.to_dict() for one in found for row in one.rows]
    adapter = [m.to_dict() for m in measured[len(layers) :]]
    targets = {one.variant: {"layers": [layer.name for layer in one.layers], "refusal": one.refusal} for one in found}
    whole = {"folder": str(folder), "model": title, "input": about, "targets": targets, "measurements": layers, "adapter": adapter}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
