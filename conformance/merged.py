"""Several runs as one: of one variant each, of several machines."""

from collections.abc import Sequence
from pathlib import Path

from conformance import floor_run, run_folder
from conformance.certificate import Certificate
from conformance.variants import known
from conformance.whole import results


def merge(folders: Sequence[Path], into: Path) -> None:
    """Put the measurements, detection floors and whole models of several runs into one folder. What it held before is replaced.

    A variant that ran in full in one of them and narrowed in others is taken from the one. Raises FileNotFoundError for a folder without a run,
    ValueError for a damaged one, or a variant or cell that ran in two of them.
    """
    chosen: dict[str, tuple[Path, Certificate]] = {}
    for folder in folders:
        for certificate in run_folder.read(folder):
            before = chosen.get(certificate.variant)
            if before and before[1].complete == certificate.complete:
                raise ValueError(f"{certificate.variant} is in {before[0]} and in {folder}; leave one of them out")
            if not before or certificate.complete:
                chosen[certificate.variant] = folder, certificate
    floors = {
        variant: own for folder in folders if (folder / floor_run.FILE).is_file() for variant, own in floor_run.read(folder).items()
    }
    run_folder.write(into, [chosen[name][1] for name in known() if name in chosen])
    if floors:
        floor_run.write(into, {variant: floors[variant] for variant in known() if variant in floors})
    results.merge(folders, into)
