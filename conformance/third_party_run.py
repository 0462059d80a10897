"""Certify third parties' layers in this environment, and keep what their pages are made of."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

from rich.console import Console

from conformance import certify
from conformance.certificate import Certificate
from conformance.checks import CHECKS
from conformance.findings.measure import of_libraries
from conformance.findings.measure import report as findings
from conformance.parallel import bar
from conformance.run_folder import machine, prepare
from conformance.third_party import Layer, Library, chosen
from conformance.verdict import Measurement, peak

FOLDER = "third-party"


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A layer's whole certificate, condensed, and where it was made.

    counted: measurements, cases, and cases on pretrained weights, of the whole certificate.
    measurements: of each cell one for every verdict and reason, the largest. made_with: versions and machine.
    """

    page: str
    variant: str
    counted: tuple[int, int, int]
    measurements: tuple[Measurement, ...]
    made_with: dict[str, str]

    @property
    def certificate(self) -> Certificate:
        """Of what was kept; its cells are those of the whole."""
        return Certificate(self.variant, self.measurements)


def certified(
    layer: Layer, checks: Iterable[str] = (), case: str | None = None, done: Callable[[], object] = lambda: None
) -> Certificate:
    """All checks of a layer, or some, on all cases or one. done: called after each check.

    Raises ValueError for an unknown check, a case that a check does not have, and a case without its check.
    """
    if case and not checks:
        raise ValueError(f"case {case} is one of some check: name that, too")
    subject, found = layer.candidate(), list[Measurement]()
    for check in checks or CHECKS:
        found += certify(subject, layer.variant, divergences=layer.divergences, checks=check, case=case)
        done()
    return Certificate(layer.variant, tuple(found), complete=not checks and case is None)


def condensed(layer: Layer, library: Library, certificate: Certificate) -> Certified:
    """What a page is made of."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for m in certificate:
        groups.setdefault((m.check, m.reference, m.verdict, m.reason, m.evidence), []).append(m)
    cases = {m.case_id for m in certificate if m.case_id}
    return Certified(
        page=layer.page,
        variant=layer.variant,
        counted=(len(certificate), len(cases), sum(case.startswith("minilm.") for case in cases)),
        measurements=tuple(peak(group) for group in groups.values()),
        made_with=machine() | {name: metadata.version(name) for name in library.pins},
    )


def report(names: Sequence[str], folder: Path, checks: Sequence[str], case: str | None) -> int:
    """Certify with a progress bar, print each verdict table, keep what is whole, run the scripts of the libraries' bugs.

    Returns the exit status: 1 if a verdict is red or a bug is no longer there as told.

    Raises ValueError for unknown names and for what is not installed as it should be.
    """
    wanted = chosen(names)
    prepare(folder)
    certificates: dict[Layer, Certificate] = {}
    with bar() as progress:
        task = progress.add_task("", total=len(wanted) * len(checks or CHECKS))
        for layer, library in wanted.items():
            progress.update(task, description=layer.page)
            certificates[layer] = certified(layer, checks, case, lambda: progress.advance(task))
            if certificates[layer].complete:
                write(folder, condensed(layer, library, certificates[layer]))
    for layer, certificate in certificates.items():
        text = certificate.table if certificate.complete else str(certificate)
        Console(soft_wrap=True).print(f"{layer.page}, {layer.what}\n{text}\n", markup=False, highlight=False)
    bugs = of_libraries([library.name for library in wanted.values()]) if all(c.complete for c in certificates.values()) else ()
    changed = findings(bugs) if bugs else 0
    return 1 if changed or any(certificate.red for certificate in certificates.values()) else 0


def write(folder: Path, one: Certified) -> None:
    """As third-party/PAGE.json in a folder that is there."""
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / f"{one.page}.json").write_text(to_json(one), encoding="utf-8", newline="\n")


def to_json(one: Certified) -> str:
    """The text of such a file; fields of measurements that have their default are left out."""
    default = {field.name: field.default for field in fields(Measurement)}
    short = [{name: value for name, value in m.to_dict().items() if value != default[name]} for m in one.measurements]
    values = asdict(one) | {"measurements": short}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def read(folder: Path, page: str) -> Certified | None:
    """What `write` wrote, None if there is nothing; ValueError if it is damaged."""
    path = folder / FOLDER / f"{page}.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        measurements = tuple(Measurement.from_dict(m) for m in values["measurements"])
        return Certified(**values | {"counted": tuple(values["counted"]), "measurements": measurements})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make it again with: nox -s third-party") from error
