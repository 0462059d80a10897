"""The ignored folder of a run: its measurements, one JSON object a line, and one page per variant."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from conformance.terminal import failure_table, verdict_table
from conformance.verdict import Measurement, cells, of_variant

MEASUREMENTS = "measurements.jsonl"


def write(folder: Path, measurements: Sequence[Measurement], narrowed: Collection[str] = ()) -> None:
    """Replace the folder's content by this run's; raises OSError if it cannot be written. narrowed: variants that ran in part."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    for old in folder.glob("*.md"):
        old.unlink()
    lines = [json.dumps(m.to_dict(), ensure_ascii=False) for m in measurements]
    (folder / MEASUREMENTS).write_text("\n".join(lines) + "\n")
    for variant in dict.fromkeys(m.variant for m in measurements):
        own = [m for m in measurements if m.variant == variant]
        (folder / f"{variant}.md").write_text(page(variant, own, complete=variant not in narrowed))


def read(folder: Path) -> list[Measurement]:
    """What `write` wrote."""
    return [Measurement.from_dict(json.loads(line)) for line in (folder / MEASUREMENTS).read_text().splitlines()]


def page(variant: str, measurements: Sequence[Measurement], *, complete: bool = True) -> str:
    """A variant's page of one run, in markdown."""
    verdicts = cells(measurements)
    parts = [
        f"# {variant}: {of_variant(verdicts.values(), complete=complete)}",
        f"{len(measurements)} measurements in {len({m.case_id for m in measurements if m.case_id})} cases.",
        f"```\n{verdict_table(variant, measurements, complete=complete)}\n```",
    ]
    for (check, reference), verdict in verdicts.items():
        if verdict.is_red:
            failed = [m for m in measurements if (m.check, m.reference) == (check, reference)]
            parts.append(f"## {check} against {reference}: {verdict}\n\n```\n{failure_table(failed)}\n```")
    return "\n\n".join(parts) + "\n"
