"""The process in which an author's code runs: python child.py MANIFEST REQUEST RESULT. It reads numbers, runs a layer, writes traces."""

import dataclasses
import platform
import resource
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SECONDS, BYTES = 300, 12 * 2**30  # of processor time and address space


def _confine() -> None:
    """No network, and an end to loops and leaks."""

    def refused(*arguments: object, **more: object) -> None:
        raise OSError("an author's code may not use the network here")

    for name in ("connect", "connect_ex", "sendto", "sendmsg", "bind"):
        setattr(socket.socket, name, refused)
    socket.create_connection = refused  # type: ignore[assignment]
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


def main(manifest_file: str, request: str, result: str) -> None:
    """Run everything that is asked for. What goes wrong goes to standard error, with the case."""
    _confine()
    import torch

    from refs.authors import manifest, traces
    from refs.authors.built import driver_of
    from refs.authors.code import Code
    from refs.authors.request import read
    from refs.case import Case
    from refs.subject import Subject, caller, run

    torch.set_num_threads(1)
    torch.set_default_device("cpu")
    about = manifest.read(Path(manifest_file).stem, Path(manifest_file).parent)
    driver = driver_of(about)
    done = []
    for text, numbers, shapes in read(Path(request)):
        case = Case.parse(text)
        try:
            built = driver.build(Code(about), case, numbers)
            entries = {key: _scaled(entry, built.factors.get(key, 1.0)) for key, entry in about.map.items() if key in shapes}
            call = built.call or caller(built.module, case, "x")
            subject = Subject(built.module, call, entries, built.tensors, shapes)
            tensors = {f"start.{key}": subject.read(key).contiguous() for key in entries}
            if case.state == "init":
                tensors |= {f"own.{key}": value for key, value in run(subject, case, numbers).items()}
            given = {key: value for key, value in (numbers.parameters | numbers.frozen).items() if key in entries}
            tensors |= run(subject, case, numbers, given)
        except Exception as error:
            error.add_note(f"in {text}")
            raise
        trained = tuple(key for key in entries if entries[key].name in subject.trainable)
        extra = subject.trainable - {entry.name for entry in entries.values()}
        done.append(traces.run_of(case, numbers, (*trained, *sorted(extra)), tensors))
    packages = ("torch", *about.packages)
    made = {package: metadata.version(package) for package in packages}
    made |= {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    traces.write(Path(result), traces.Traces(about.provenance, made, done))


def _scaled(entry: Any, factor: float) -> Any:
    return dataclasses.replace(entry, factor=entry.factor * factor)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
