"""The authors' layers that the suites name: getting their checkouts, and recording their traces again."""

from collections.abc import Callable, Iterator, Sequence

from conformance import policy, runs
from conformance.parallel import bar
from conformance.suite_of import suite_of
from conformance.variants import known
from conformance.verdict import Verdict, rounded_up
from refs.authors import checkout, recording, traces
from refs.authors.checkout import CheckoutError
from refs.authors.layer import AuthorLayer
from refs.authors.recording import RecordingError
from refs.authors.traces import Run, Traces
from refs.formula import Formula

MADE_WITH = ("torch", "machine", "processor")  # the same bits are asked for where these are the same


def layers(names: Sequence[str]) -> list[AuthorLayer]:
    """Those of these names, or all, in the order of the suites; ValueError for an unknown name."""
    found = {r.layer: r for variant in known() for r in suite_of(variant).references if isinstance(r, AuthorLayer)}
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"unknown author's layer {', '.join(unknown)}; known: {', '.join(found)}")
    return [layer for name, layer in found.items() if not names or name in names]


def fetch(names: Sequence[str]) -> int:
    """Clone what is not there, verify every file, list licences. Returns the exit status: 1 if something could not be had."""

    def get(layer: AuthorLayer) -> str:
        checkout.clone(layer.manifest)
        checkout.verify(layer.manifest)
        m = layer.manifest
        return f"{m.folder} at {m.commit[:12]}, {len(m.files)} files verified; licence: {m.licence}"

    print(f"checkouts are in {checkout.root()}")  # noqa: T201
    return _each(layers(names), "checkouts", get)


def record(names: Sequence[str], *, write: bool) -> int:
    """Run the layers again and compare with their recorded traces. Returns the exit status: 1 if a trace would change.

    write: keep what was made now, where something differs or nothing was recorded.
    """

    def one(layer: AuthorLayer) -> str:
        made = recording.record(layer.manifest, list(layer.asked()))
        file = layer.recorded_file
        problems = _problems(layer, made)
        if problems and write:
            traces.write(file, made)
            return f"{len(made.runs)} runs written; before: {problems[0]}"
        if problems:
            raise RecordingError(f"{layer.layer}: {len(problems)} differences, {'; '.join(problems[:3])}; keep them with --write")
        return f"{len(made.runs)} runs, the same as recorded"

    return _each(layers(names), "recording", one)


def _problems(layer: AuthorLayer, made: Traces) -> list[str]:
    file = layer.recorded_file
    if not file.is_file():
        return [f"{file.name} is not there yet"]
    try:
        return differences(traces.read(file), made, layer.formula)
    except ValueError as error:
        return [str(error)]


def _each(chosen: Sequence[AuthorLayer], title: str, action: Callable[[AuthorLayer], str]) -> int:
    failed = 0
    width = max(len(layer.layer) for layer in chosen)
    with bar() as progress:
        task = progress.add_task(title, total=len(chosen))
        for layer in chosen:
            progress.update(task, description=f"{title}: {layer.layer}")
            try:
                words = action(layer)
            except (CheckoutError, RecordingError, ValueError, OSError) as error:
                words, failed = f"FAILED: {error}", failed + 1
            print(f"{layer.layer:{width}}  {words}", flush=True)  # noqa: T201
            progress.advance(task)
    return 1 if failed else 0


def differences(before: Traces, now: Traces, formula: Formula) -> list[str]:
    """What is not as it was recorded: provenance, runs, and tensors: bit for bit where it was recorded on such a machine, by the policy elsewhere."""
    found = [
        f"{name} was {before.provenance.get(name)!r}, is {value!r}"
        for name, value in now.provenance.items()
        if before.provenance.get(name) != value
    ]
    exact = all(before.made.get(name) == now.made.get(name) for name in MADE_WITH)
    pairs = [(traces.nearly(before.runs, run.case, run.fingerprint), run) for run in now.runs]
    kept = [id(old) for old, _ in pairs]
    found += [f"not run any more: {run.case.id}" for run in before.runs if id(run) not in kept]
    found += [f"not recorded: {run.case.id}" for old, run in pairs if old is None]
    for old, run in pairs:
        if old:
            truth = None if exact else traces.exactly(now.runs, run.case.but(dtype="float64"), run.digest) or run
            found += list(_changes(old, run, truth, formula))
    return sorted(found)


def _changes(old: Run, new: Run, exact: Run | None, formula: Formula) -> Iterator[str]:
    case = new.case
    if old.trained != new.trained or old.tensors.keys() != new.tensors.keys():
        yield f"other tensors: {', '.join(sorted(old.tensors.keys() ^ new.tensors.keys())) or 'others are trained'} in {case.id}"
        return
    kappa = runs.kappa(case, formula) if exact else {}
    for name, value in new.tensors.items():
        if value.equal(old.tensors[name]):
            continue
        gap = rounded_up(policy.distance(value, old.tensors[name]))
        if exact is None:
            yield f"{name} differs by {gap} in {case.id}"
            continue
        own = kappa.get(name.removeprefix("own."), 1.0)
        n = formula.steps(case) + max(case.d_in, case.d_out, value.numel() // case.d_out)
        if case.dtype == "float64":
            judged = policy.same_function(value, old.tensors[name], n=n, kappa=own)
        else:
            judged = policy.no_less_accurate(value, old.tensors[name], exact.tensors.get(name, value), kappa=own)
        if judged.verdict is Verdict.FAILS:
            yield f"{name} differs by {gap}, more than the policy allows, in {case.id}"
