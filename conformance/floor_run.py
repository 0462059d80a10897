"""The detection floors of many variants: measured in several processes, printed, kept in the run folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from conformance.floor import Floor, floors, grid, void
from conformance.parallel import as_done, bar
from conformance.terminal import rendered
from conformance.variants import check_known, known

FILE = "floor.json"


def report(names: Sequence[str], *, processes: int, folder: Path) -> int:
    """Measure all variants, or some, print their floors, and add them to the folder. Returns the exit status: 1 if a goal is missed.

    Raises ValueError for an unknown variant, OSError if the folder cannot be written.
    """
    check_known(names)
    chosen = list(names) or known()
    folder.mkdir(parents=True, exist_ok=True)
    kept = read(folder) if (folder / FILE).is_file() else {}
    found: dict[str, tuple[Floor, ...]] = {}
    with bar() as progress:
        task = progress.add_task("detection floor", total=len(chosen))
        for variant, own in _measured(chosen, processes):
            found[variant] = own
            progress.update(task, advance=1, description=f"detection floor: {variant}")
    kept |= found
    write(folder, {variant: kept[variant] for variant in known() if variant in kept})
    missed = 0
    for variant in chosen:
        header, *rows = grid(found[variant])
        table = Table(box=SIMPLE, title=f"{variant}: the smallest relative error that is seen", title_justify="left")
        for title in header:
            table.add_column(title, overflow="fold")
        for row in rows:
            table.add_row(*row)
        print(rendered(table))  # noqa: T201
        for line in void(found[variant]):
            missed += 1
            print(f"  void: {line}")  # noqa: T201
    return 1 if missed else 0


def _measured(variants: Sequence[str], processes: int) -> Iterator[tuple[str, tuple[Floor, ...]]]:
    return as_done(((floors, variant) for variant in variants), processes)


def write(folder: Path, found: Mapping[str, Sequence[Floor]]) -> None:
    """Keep them in the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({variant: [asdict(floor) for floor in own] for variant, own in found.items()}, indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8", newline="\n")


def read(folder: Path) -> dict[str, tuple[Floor, ...]]:
    """What `write` kept, by variant; FileNotFoundError that says how to make it, ValueError if it is damaged."""
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no detection floor; make it with: nox -s floor")
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {variant: tuple(Floor(**floor) for floor in own) for variant, own in kept.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / FILE} is damaged ({error}); make it again with: nox -s floor") from error
