"""How an author's file becomes a module, in the process that runs it: from verified bytes only, with stand-ins for what it merely imports."""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from refs.authors.checkout import verified
from refs.authors.manifest import Manifest


@dataclass(frozen=True)
class Code:
    """The files of a manifest."""

    manifest: Manifest

    def module(self, file: str, name: str | None = None) -> Any:
        """One file as a module. name: what it is to be called, for relative imports; by default its own."""
        module = ModuleType(name or PurePosixPath(file).stem)
        module.__file__ = file
        module.__package__ = module.__name__.rpartition(".")[0]
        sys.modules[module.__name__] = module
        exec(compile(verified(self.manifest, file), file, "exec"), module.__dict__)
        return module

    def package(self, folder: str, name: str) -> Any:
        """A folder as the package `name`; of what it imports from itself, too, only files of the manifest are run.

        Loaded once. ImportError if another package of that name, such as an installed one, was there first.
        """
        if name not in sys.modules:
            sys.meta_path.insert(0, _Finder(self, folder.strip("/"), name))
        package = importlib.import_module(name)
        if not isinstance(package.__loader__, _Finder):
            raise ImportError(f"{folder} should be imported as {name}, which is already {package.__file__}")
        return package

    def extract(self, file: str, names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """Some functions and classes of a file that cannot be imported whole. given: the globals they find."""
        tree = ast.parse(verified(self.manifest, file))
        found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        if missing := set(names) - found.keys():
            raise ImportError(f"{file} has no {', '.join(sorted(missing))}")
        namespace = dict(given)
        exec(compile(ast.Module([found[name] for name in names], []), file, "exec"), namespace)
        return {name: namespace[name] for name in names}


def stand_in(name: str, **attributes: Any) -> ModuleType:
    """A module for what a file imports and never uses here; its parents, too."""
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__path__ = []
    # So that libraries which look whether it is installed find nothing.
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(stand_in(parent), own, module)
    return module


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of one package among the files of a manifest."""

    def __init__(self, code: Code, folder: str, name: str) -> None:
        self.code, self.folder, self.name = code, folder, name

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        for file in self._candidates(fullname):
            if file in self.code.manifest.files:
                return importlib.util.spec_from_loader(fullname, self, origin=file, is_package=file.endswith("__init__.py"))
        raise ImportError(
            f"{fullname} is imported, and {self.code.manifest.name}.toml lists none of {', '.join(self._candidates(fullname))}"
        )

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        file = str(module.__spec__.origin)
        exec(compile(verified(self.code.manifest, file), file, "exec"), module.__dict__)

    def _candidates(self, fullname: str) -> list[str]:
        place = "/".join([self.folder, *fullname.removeprefix(self.name).strip(".").split(".")]).rstrip("/")
        return [f"{place}/__init__.py", f"{place}.py"]
