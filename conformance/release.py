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

CHOSEN = "PEFT_CONFORMANCE_RELEASE"  # of a process that uses another release: its folder

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
    if version and not folder.is_dir():
        _install(wanted, [f"peft=={version}", *(COMPANIONS if version in OLDER else ())], folder)
    elif version is None and Path(wanted).is_dir():
        with tempfile.TemporaryDirectory() as copy:  # building leaves files in the source, and takes old ones from it
            source = shutil.copytree(
                wanted, Path(copy) / "peft", ignore=shutil.ignore_patterns("build", "*.egg-info", ".git", ".venv")
            )
            _install(wanted, [str(source)], folder)
    elif version is None:
        _install(wanted, [wanted], folder)
    child = subprocess.run(
        [sys.executable, "-c", "import peft; print(peft.__file__)"],
        env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode:
        raise ValueError(f"peft {wanted} does not import here: {last_line(child.stderr)}")
    if not Path(child.stdout.strip()).is_relative_to(folder):
        raise ValueError(f"there is no peft in {wanted}: what would be imported is {child.stdout.strip()}")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """For a child process that is to have this release."""
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": str(folder) if not before else f"{folder}{os.pathsep}{before}"}


def use(folder: Path) -> None:
    """Have it in this process and in its children; RuntimeError if peft is imported already."""
    if "peft" in sys.modules:
        raise RuntimeError("peft is imported already: another release has to be chosen first")
    if os.environ.get(CHOSEN) != str(folder):
        os.environ |= {"PYTHONPATH": environment(folder)["PYTHONPATH"], CHOSEN: str(folder)}
    sys.path.insert(0, str(folder))


def chosen() -> Path | None:
    """What the process that made this one uses. xdist gives its workers the search path from before it was put there."""
    return Path(os.environ[CHOSEN]) if CHOSEN in os.environ else None


def _version(wanted: str) -> Version | None:
    try:
        return Version(wanted)
    except InvalidVersion:
        return None


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "peft-conformance" / "peft"


def _install(wanted: str, requirements: list[str], folder: Path) -> None:
    """Aside first, so that nothing half-installed is ever found there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        target = Path(aside) / "new"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *requirements]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise ValueError(f"pip cannot get peft {wanted}: {last_line(child.stderr)}")
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)


def last_line(text: str) -> str:
    """Of a child's messages: what it died of."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("WARNING", "[notice]", "note:"))]
    told = [line for line in lines if line.lower().startswith(("error", "fatal"))]
    return (told or lines or ["no message"])[-1]
