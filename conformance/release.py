"""Another release of peft than the installed one: pip puts it into a folder of its own, which then comes first."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

# These do not import with today's transformers, which has no HybridCache any more.
OLDER = SpecifierSet(">=0.16,<0.18")
COMPANIONS = ("transformers==4.57.1", "tokenizers==0.22.1", "huggingface-hub==0.36.0")


def prepare(wanted: str) -> Path:
    """The folder of a release that imports here; got with pip if it is not there yet.

    wanted: a version, a folder with peft's source, a wheel, or a URL as pip takes it ("git+https://…"). A version is kept in the
    user's cache, anything else is built anew each time. Raises ValueError if it is none of these, if pip cannot get it, or if it
    does not import.
    """
    version = _version(wanted)
    if version is None and "://" not in wanted and not Path(wanted).exists():
        raise ValueError(f"--peft should be a version, a folder, a wheel or a URL, got {wanted!r}, which is none of these")
    folder = _cache() / (str(version) if version else hashlib.sha256(wanted.encode()).hexdigest()[:12])
    if version is None or not folder.is_dir():
        _install([f"peft=={version}", *(COMPANIONS if version in OLDER else ())] if version else [wanted], folder)
    child = subprocess.run(
        [sys.executable, "-c", "import peft"], env=environment(folder), capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise ValueError(f"peft {wanted} does not import here: {last_line(child.stderr)}")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """For a child process that is to have this release."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": str(folder) if not before else f"{folder}{os.pathsep}{before}"}


def use(folder: Path) -> None:
    """Have it in this process and in its children; RuntimeError if peft is imported already."""
    if "peft" in sys.modules:
        raise RuntimeError("peft is imported already: another release has to be chosen first")
    os.environ["PYTHONPATH"] = environment(folder)["PYTHONPATH"]
    sys.path.insert(0, str(folder))


def _version(wanted: str) -> Version | None:
    try:
        return Version(wanted)
    except InvalidVersion:
        return None


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "peft-conformance" / "peft"


def _install(requirements: list[str], folder: Path) -> None:
    """Aside first, so that nothing half-installed is ever found there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        target = Path(aside) / "new"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *requirements]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise ValueError(f"pip cannot get {' '.join(requirements)}: {last_line(child.stderr)}")
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def last_line(text: str) -> str:
    """Of a child's messages: what it died of."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice]"))]
    return lines[-1].strip() if lines else "no message"
