"""A manifest: which layer of which author is meant, down to the bytes, and how its tensors are called. Data, no code."""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from refs.maps import Entry, parse

LAYERS = Path(__file__).parent / "layers"
WORDS = {"repository", "commit", "licence", "equation", "where", "files", "map", "requires"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What NAME.toml says.

    file: where the manifest itself is; its driver, NAME.py, lies beside it.
    repository: its address. commit: 40 hexadecimal digits. licence: as the repository states it, or "none stated".
    equation: what the layer computes, in the project's notation. where: file and class, for pages.
    files: path in the repository → SHA-256 of the file. Nothing else of it is ever run.
    map: canonical name → the layer's tensor, in the notation of `refs.maps`.
    requires: packages that the code needs besides torch, as pip is told them. digest: SHA-256 of the manifest itself.
    """

    file: Path
    repository: str
    commit: str
    licence: str
    equation: str
    where: str
    files: Mapping[str, str]
    map: Mapping[str, Entry]
    requires: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """Of the layer."""
        return self.file.stem

    @property
    def driver(self) -> Path:
        """How it is built: a file of ours."""
        return self.file.with_suffix(".py")

    @property
    def folder(self) -> str:
        """OWNER/REPOSITORY, where its checkout lies in the folder of checkouts."""
        return "/".join(self.repository.removesuffix(".git").rsplit("/", 2)[-2:])

    @property
    def packages(self) -> list[str]:
        """Names of what it requires."""
        return [Requirement(text).name for text in self.requires]

    def unmet(self) -> list[str]:
        """What it requires and is not installed, or in another version."""
        there = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
        return [text for text in self.requires if not _is_met(Requirement(text), there)]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a trace's header says of it."""
        same = ("repository", "commit", "licence", "files")
        return {name: getattr(self, name) for name in same} | {"manifest": self.digest}


def _is_met(requirement: Requirement, there: Mapping[NormalizedName, str]) -> bool:
    name = canonicalize_name(requirement.name)
    return name in there and requirement.specifier.contains(there[name], prereleases=True)


def names() -> list[str]:
    """Of all manifests."""
    return sorted(path.stem for path in LAYERS.glob("*.toml"))


def read(name: str, folder: Path = LAYERS) -> Manifest:
    """A manifest; ValueError that shows what is wrong with it, or which there are."""
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"unknown author's layer {name!r}; known: {', '.join(names())}")
    data = path.read_bytes()
    try:
        said = tomllib.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if said.keys() | {"requires"} != WORDS:
        raise ValueError(
            f"{path.name} says {', '.join(sorted(said))}; it should say {', '.join(sorted(WORDS))} (requires may be left out)"
        )
    if not re.fullmatch("[0-9a-f]{40}", str(said["commit"])):
        raise ValueError(f"{path.name}: commit should be 40 hexadecimal digits, got {said['commit']!r}")
    for file, digest in said["files"].items():
        if not re.fullmatch("[0-9a-f]{64}", str(digest)):
            raise ValueError(f"{path.name}: {file} should have a SHA-256 of 64 hexadecimal digits, got {digest!r}")
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"{path.name}: {file} leads out of the checkout")
    entries = parse(said.pop("map"))
    requires = tuple(said.pop("requires", ()))
    return Manifest(file=path, map=entries, requires=requires, digest=hashlib.sha256(data).hexdigest(), **said)
