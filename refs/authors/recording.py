"""Run an author's layer in a process of its own, which writes its traces. Live is: record now, compare."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from refs.authors import request, traces
from refs.authors.checkout import VARIABLE, root, verify
from refs.authors.manifest import Manifest

CHILD = Path(__file__).with_name("child.py")
SECONDS = 600.0
PASSED_ON = ("PATH", "LANG", "TMPDIR")  # no tokens, no proxies


class RecordingError(Exception):
    """The process that runs an author's code did not do it."""


def ready(manifest: Manifest) -> None:
    """CheckoutError unless the checkout is what the manifest says, RecordingError that names what is not installed."""
    verify(manifest)
    if unmet := manifest.unmet():
        raise RecordingError(
            f"{manifest.name} needs {', '.join(unmet)}, not installed here: pip install {' '.join(map(repr, unmet))}"
        )


def record(manifest: Manifest, asked: Sequence[request.Asked], *, seconds: float = SECONDS) -> traces.Traces:
    """The traces of an author's layer in the runs that are asked for; nothing is left behind.

    Raises as `ready` does, and RecordingError with the last words of the process if it crashed, hung or wrote nothing of use.
    """
    ready(manifest)
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    quiet |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with TemporaryDirectory(prefix="conformance-author-") as folder:
        wanted, got = Path(folder) / "request.safetensors", Path(folder) / "traces.safetensors"
        request.write(wanted, asked)
        quiet |= {"HOME": folder, VARIABLE: str(root())}
        command = [sys.executable, "-W", "ignore", "-P", str(CHILD), str(manifest.file), str(wanted), str(got)]
        with subprocess.Popen(
            command, env=quiet, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            process_group=0,
        ) as process:  # fmt: skip
            try:
                said = process.communicate(timeout=seconds)[1]
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started: nothing of it outlives us
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise RecordingError(
                    f"{manifest.name}: the author's code did not end within {seconds:g} s and was stopped"
                ) from error
        if process.returncode:
            words = "\n".join(said.strip().splitlines()[-6:]) or "it said nothing"
            how = f"by signal {-process.returncode}" if process.returncode < 0 else f"with status {process.returncode}"
            raise RecordingError(f"{manifest.name}: the process that ran the author's code ended {how}:\n{words}")
        try:
            return traces.read(got)
        except (ValueError, FileNotFoundError) as error:
            raise RecordingError(f"{manifest.name}: the process that ran the author's code wrote no traces: {error}") from error
