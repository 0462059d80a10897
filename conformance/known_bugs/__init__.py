"""Bugs that this family of methods has really had, as data: each is planted in lite and has to turn exactly its checks red."""

import importlib
import pkgutil

from conformance.known_bugs.bug import Bug
from conformance.known_bugs.plant import planted

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
BUGS: tuple[Bug, ...] = tuple(bug for module in _modules for bug in getattr(module, "BUGS", ()))

__all__ = ["BUGS", "Bug", "planted"]
