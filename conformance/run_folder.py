"""The ignored folder of a run: its measurements, one JSON object a line, what they were made with, and a page per variant."""

import contextlib
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.certificate import Certificate
from conformance.variants import check_known
from conformance.verdict import Measurement

SUMMARY_BYTES = 900_000
MEASUREMENTS, RUN = "measurements.jsonl", "run.json"
PACKAGES = ("torch", "peft", "transformers", "safetensors", "numpy")


def write(folder: Path, certificates: Sequence[Certificate]) -> None:
    """Replace the folder's content by this run's; raises OSError if it cannot be written."""
    prepare(folder)
    # An older run's pages, and nothing else that may lie here; its record may be damaged.
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        for old in json.loads((folder / RUN).read_text(encoding="utf-8"))["variants"]:
            (folder / f"{old}.md").unlink(missing_ok=True)
    (folder / RUN).unlink(missing_ok=True)  # written last: without it there is no run
    lines = [json.dumps(m.to_dict(), ensure_ascii=False) + "\n" for certificate in certificates for m in certificate]
    _write(folder / MEASUREMENTS, "".join(lines))
    variants = {
        c.variant: {
            "complete": c.complete, "doc_gaps": list(c.doc_gaps), "measurements": len(c), "machine": dict(c.machine) or machine(),
        }
        for c in certificates
    }  # fmt: skip
    for certificate in certificates:
        _write(folder / f"{certificate.variant}.md", page(certificate))
    _write(folder / RUN, json.dumps({"variants": variants}, indent=1) + "\n")


def prepare(folder: Path) -> None:
    """Make the folder, where git ignores it; raises OSError if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


def read(folder: Path) -> list[Certificate]:
    """What `write` wrote; FileNotFoundError that says how to make it, ValueError if it is damaged."""
    if not (folder / RUN).is_file():
        raise FileNotFoundError(f"{folder} holds no run; make one with: nox -s conformance")
    try:
        return _read(folder)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{folder} holds a damaged run ({error}); make it again with: nox -s conformance") from error


def _read(folder: Path) -> list[Certificate]:
    run: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    with (folder / MEASUREMENTS).open(encoding="utf-8", newline="\n") as lines:  # only this ends a line: messages may hold others
        measurements = [Measurement.from_dict(json.loads(line)) for line in lines]
    check_known(run["variants"])
    certificates = []
    for name, about in run["variants"].items():
        own = tuple(m for m in measurements if m.variant == name)
        if len(own) != about["measurements"]:
            raise ValueError(f"{name} should have {about['measurements']} measurements, there are {len(own)}")
        certificates.append(Certificate(name, own, about["complete"], tuple(about["doc_gaps"]), about["machine"]))
    return certificates


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def job_summary(folder: Path) -> str:
    """The verdict tables of a run in markdown, failures in full as far as a job summary's 1 MiB has room."""
    certificates = read(folder)
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
