"""A program that saves over an old file while something goes wrong: `python -m lite.tests.faults FOLDER`.

Every fault has a forked child of its own, and a folder FOLDER/KIND/NUMBER with `file` in it. Faults come at the n-th call that opens, syncs, renames
or removes something there, for every n there is, or at the n-th byte that is written, whoever writes it:
`killed` and `cut` end the process at once, the names of errno make the call fail, `full` stops the writing as a full disk does.
A line of JSON for each says what became of the child.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lite
from lite.tests.files import TWO
from lite.tests.toys import adapted, trained

AT_CALLS = ("killed", "ENOSPC", "EROFS", "EIO")
AT_BYTES = ("cut", "full")
WATCHED = {"open": 0, "os.rename": 1, "os.remove": 0}  # Python's audit events and the place of the path that they are about
EVERY = 211  # bytes


class Calls:
    """Counts what happens in a folder, and lets the n-th call end as `kind` says; it has no end but the process's."""

    def __init__(self, folder: Path, kind: str, at: int | None) -> None:
        self.folder, self.kind, self.at = folder.resolve(), kind, at
        self.seen: list[str] = []
        self._fsync = os.fsync
        os.fsync = self.fsync
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in WATCHED and isinstance(path := args[WATCHED[event]], str | bytes | os.PathLike):
            path = Path(os.fsdecode(path)).resolve()
            if self.folder in (path, path.parent):
                self.call(f"{event} {'.' if path == self.folder else path.name}")

    def fsync(self, fd: int) -> None:
        self.call(f"fsync {'.' if stat.S_ISDIR(os.fstat(fd).st_mode) else 'file'}")
        self._fsync(fd)

    def call(self, what: str) -> None:
        self.seen.append(what)
        if len(self.seen) != self.at:
            return
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, self.kind), "planted", what)


def limited(kind: str, size: int) -> None:
    """No file of this process grows beyond `size` bytes: the next one kills it (`cut`) or fails (`full`)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kind == "cut" else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns in a fork, or how it ended there."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(told) if os.WIFEXITED(status) else {"signal": signal.Signals(os.WTERMSIG(status)).name}


def save(file: Path, kind: str, at: int | None) -> dict[str, Any]:
    """Save a newer model under a fault."""
    model = trained(adapted(TWO), seed=7)
    calls = Calls(file.parent, kind, at if kind in AT_CALLS else None)
    error = None
    if kind in AT_BYTES:
        limited(kind, at)
    with contextlib.suppress(OSError):
        try:
            lite.save(model, file)
        except BaseException as caught:
            error = type(caught).__name__
            raise
    return {"error": error, "calls": calls.seen, "faulty": kind in AT_BYTES or at is None or len(calls.seen) >= at}


def runs(folder: Path, old: bytes) -> Iterator[dict[str, Any]]:
    """Every fault there is."""

    def run(kind: str, at: int | None) -> dict[str, Any]:
        file = folder / kind / str(at) / "file"
        file.parent.mkdir(parents=True)
        file.write_bytes(old)
        return {"kind": kind, "at": at, "file": str(file)} | child(lambda: save(file, kind, at))

    yield run("none", None)
    size = (folder / "none" / "None" / "file").stat().st_size
    for kind in AT_BYTES:
        yield from (run(kind, at) for at in (*range(0, size, EVERY), size - 1))
    for kind in AT_CALLS:
        at = 1
        while (told := run(kind, at)).get("faulty", True):
            yield told
            at += 1


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for told in runs(place, (place / "old").read_bytes()):
        print(json.dumps(told))  # noqa: T201
