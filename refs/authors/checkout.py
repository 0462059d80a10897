"""Checkouts of authors' repositories: where they lie, how they come there, and whether they are what the manifests say."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from refs.authors.manifest import Manifest

VARIABLE = "PEFT_CONFORMANCE_REFS"
LARGEST = 32 * 2**20  # bytes of a file that may be run


class CheckoutError(Exception):
    """A checkout cannot be had, or is not what its manifest says."""


def root() -> Path:
    """The folder of all checkouts: $PEFT_CONFORMANCE_REFS, or one in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(cache) / "peft-conformance" / "refs").absolute()


def path_of(manifest: Manifest) -> Path:
    """Where a manifest's checkout lies, if it is there."""
    return root() / manifest.folder


def is_there(manifest: Manifest) -> bool:
    """Whether there is one at all."""
    return path_of(manifest).is_dir()


def verified(manifest: Manifest, file: str) -> bytes:
    """A file's bytes, which are what the manifest says; CheckoutError that names the file and both hashes if they are not."""
    folder = path_of(manifest).resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder):
        raise CheckoutError(f"{manifest.name}: {file} leads out of the checkout {folder}")
    if not path.is_file():
        raise CheckoutError(
            f"{manifest.name}: {file} is not in the checkout {folder}; was the clone cut short? Remove it and run: nox -s refs"
        )
    if path.stat().st_size > LARGEST:
        raise CheckoutError(f"{manifest.name}: {file} has {path.stat().st_size} bytes, which is no source file")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != manifest.files[file]:
        raise CheckoutError(
            f"{manifest.name}: {file} in {folder} has SHA-256 {found}, should be {manifest.files[file]}: "
            f"the file was changed, or the checkout is not at {manifest.commit}"
        )
    return data


def verify(manifest: Manifest) -> None:
    """CheckoutError unless every file is there, byte for byte."""
    if not is_there(manifest):
        raise CheckoutError(f"{manifest.name}: there is no checkout {path_of(manifest)}; get it with: nox -s refs")
    for file in manifest.files:
        verified(manifest, file)


def clone(manifest: Manifest, source: str | None = None) -> Path:
    """Get the pinned commit, beside its place first, so that nothing half-written stays. Returns where it is; one that is there is left alone.

    source: another address than the manifest's. Raises CheckoutError that says what git said.
    """
    place = path_of(manifest)
    if is_there(manifest):
        return place
    if shutil.which("git") is None:
        raise CheckoutError("git is not installed; install it, or put checkouts into $" + VARIABLE)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(manifest, "init", "--quiet", str(aside))
        _git(manifest, "-C", str(aside), "fetch", "--quiet", "--depth", "1", source or manifest.repository, manifest.commit)
        _git(manifest, "-C", str(aside), "-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
        aside.rename(place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return place


def _git(manifest: Manifest, *arguments: str) -> None:
    """Without hooks, without large files, without questions."""
    # Not the caller's repository, if git itself has called us, and not his settings, which may change what is written.
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet |= {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],
            env=quiet,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckoutError(f"{manifest.name}: git {arguments[0]} failed: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        words = [line for line in said if line.startswith(("fatal:", "error:"))] or said[-1:] or ["it said nothing"]
        raise CheckoutError(f"{manifest.name}: {manifest.repository} at {manifest.commit} cannot be had: {words[0]}")
