"""Libraries from PyPI with layers that claim to be one of the variants: a file each, found by being here.

A file imports its library where a layer is built, so that what there is can be listed where nothing of it is installed.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from conformance.certification import Reset
from conformance.foreign import Factory, FactoryLayer, candidate
from conformance.suite import Divergence
from conformance.suite_of import suite_of
from conformance.terminal import THIRD_PARTY


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One layer of a library, as `certify` takes it.

    page: its name here, and of its page. variant: the method it claims to be. what: its class, or how it is reached.
    divergences: differences that are the library's choice; bugs stay red.
    """

    page: str
    variant: str
    what: str
    factory: Factory
    map: Mapping[str, Any]
    reset: Reset | None = None
    input_name: str | None = None
    divergences: tuple[Divergence, ...] = ()

    def candidate(self) -> FactoryLayer:
        """What is judged, under its own name."""
        made = candidate(self.factory, suite_of(self.variant), self.map, self.reset, self.input_name)
        assert isinstance(made, FactoryLayer)
        return replace(made, name=THIRD_PARTY + self.page)


@dataclass(frozen=True, kw_only=True, eq=False)
class Library:
    """A release of a library.

    name: as PyPI has it. requirements: what has to be installed, each with its exact version, the library first.
    about: for its section of the index: what it has, and what of it has no variant here.
    """

    name: str
    requirements: tuple[str, ...]
    licence: str
    link: str
    layers: tuple[Layer, ...]
    about: str | None = None

    @property
    def pins(self) -> dict[str, str]:
        """What has to be installed → its version; ValueError for a requirement that names none exactly."""
        pinned = [Requirement(text) for text in self.requirements]
        if loose := [str(one) for one in pinned if len(one.specifier) != 1 or not str(one.specifier).startswith("==")]:
            raise ValueError(f"{self.name} requires {', '.join(loose)}: should be exact versions, as in name==1.2")
        return {one.name: next(iter(one.specifier)).version for one in pinned}

    @property
    def release(self) -> str:
        """Its version."""
        return self.pins[self.name]

    @property
    def is_there(self) -> bool:
        """Whether some release of it is installed."""
        return _installed(self.name) is not None

    def check_installed(self) -> None:
        """ValueError that says what to install if something is not there, or in another version than what is certified."""
        wrong = [f"{name} is {_installed(name) or 'not installed'}, should be {pin}" for name, pin in self.pins.items() if _release(name) != pin]  # fmt: skip
        if wrong:
            raise ValueError(
                f"{self.name}: {'; '.join(wrong)}. pip install {' '.join(self.requirements)}, or nox -s third-party -- {self.name}"
            )


def libraries() -> tuple[Library, ...]:
    """All of them, in alphabetical order of their files."""
    return tuple(importlib.import_module(f"{__name__}.{module.name}").LIBRARY for module in pkgutil.iter_modules(__path__))


def chosen(names: Sequence[str]) -> dict[Layer, Library]:
    """The layers of these names, pages or libraries, with whose they are; without names, of the libraries that are installed.

    Raises ValueError for an unknown name, and for what is not installed as it should be.
    """
    known = libraries()
    words = [word for library in known for word in (library.name, *(layer.page for layer in library.layers))]
    if unknown := [name for name in names if name not in words]:
        raise ValueError(f"unknown library or layer {', '.join(unknown)}; known: {', '.join(dict.fromkeys(words))}")
    wanted = {
        layer: library
        for library in known
        for layer in library.layers
        if library.name in names or layer.page in names or (not names and library.is_there)
    }
    if not wanted:
        raise ValueError(f"none of {', '.join(library.name for library in known)} is installed; nox -s third-party installs each")
    for library in dict.fromkeys(wanted.values()):
        library.check_installed()
    return wanted


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(name: str) -> str:
    """The installed version without a build's own name ("+cpu")."""
    return (_installed(name) or "").partition("+")[0]
