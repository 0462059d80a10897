"""The ignored folder of a run: its measurements, one JSON object a line, what they were made with, and a page per variant."""

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.certificate import Certificate
from conformance.verdict import Measurement

SUMMARY_BYTES = 900_000
MEASUREMENTS, RUN = "measurements.jsonl", "run.json"
PACKAGES = ("torch", "peft", "transformers", "safetensors", "numpy")


def write(folder: Path, certificates: Sequence[Certificate]) -> None:
    """Replace the folder's content by this run's; raises OSError if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    for old in folder.glob("*.md"):
        old.unlink()
    lines = [json.dumps(m.to_dict(), ensure_ascii=False) for certificate in certificates for m in certificate]
    (folder / MEASUREMENTS).write_text("\n".join(lines) + "\n")
    variants = {c.variant: {"complete": c.complete, "doc_gaps": list(c.doc_gaps)} for c in certificates}
    (folder / RUN).write_text(json.dumps({"machine": machine(), "variants": variants}, indent=1) + "\n")
    for certificate in certificates:
        (folder / f"{certificate.variant}.md").write_text(page(certificate))


def read(folder: Path) -> tuple[list[Certificate], dict[str, str]]:
    """What `write` wrote, and the machine; FileNotFoundError that says how to make it."""
    if not (folder / RUN).is_file():
        raise FileNotFoundError(f"{folder} holds no run; make one with: nox -s conformance")
    run: dict[str, Any] = json.loads((folder / RUN).read_text())
    measurements = [Measurement.from_dict(json.loads(line)) for line in (folder / MEASUREMENTS).read_text().splitlines()]
    certificates = [
        Certificate(name, tuple(m for m in measurements if m.variant == name), about["complete"], tuple(about["doc_gaps"]))
        for name, about in run["variants"].items()
    ]
    return certificates, run["machine"]


def job_summary(folder: Path) -> str:
    """The verdict tables of a run in markdown, failures in full as far as a job summary's 1 MiB has room."""
    certificates, _ = read(folder)
    text = "\n".join(page(certificate) for certificate in certificates)
    if len(text.encode()) <= SUMMARY_BYTES:
        return text
    return "\n\n".join(f"# {c.variant}: {c.verdict}\n\n```\n{c.table}\n```" for c in certificates)


def machine() -> dict[str, str]:
    """What a run was made with: nothing in it changes from run to run on one machine."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions, "processor": _processor(), "torch threads": "1"}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def page(certificate: Certificate) -> str:
    """A variant's page of one run, in markdown: the table, and every failure in full."""
    cases = {m.case_id for m in certificate if m.case_id}
    parts = [
        f"# {certificate.variant}: {certificate.verdict}",
        f"{len(certificate)} measurements in {len(cases)} cases.",
        f"```\n{certificate.table}\n```",
    ]
    return "\n\n".join([*parts, *(f"```\n{failure}\n```" for failure in certificate.failures())]) + "\n"
