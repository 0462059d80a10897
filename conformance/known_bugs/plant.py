"""Plant a bug in process: a unique replacement in the source of a variant or of a function, undone afterwards."""

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

from conformance.known_bugs.bug import Bug
from lite.variant import VARIANTS


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Lite with the bug; ValueError if the text to replace is not there exactly once."""
    module_name, _, function_name = bug.where.partition(":")
    module = importlib.import_module(module_name)
    plant = _in_function(module, function_name, bug) if function_name else _in_variant(module, bug)
    with plant:
        yield


@contextmanager
def _in_variant(module: ModuleType, bug: Bug) -> Iterator[None]:
    """Run the variant's changed source as a module of its own, which registers in the original's place."""
    code = compile(_replaced(inspect.getsource(module), bug), f"<{bug.id}>", "exec")
    original = VARIANTS.pop(bug.variant)
    try:
        exec(code, {"__name__": f"{module.__name__}.{bug.id}"})
        yield
    finally:
        VARIANTS[bug.variant] = original


@contextmanager
def _in_function(module: ModuleType, name: str, bug: Bug) -> Iterator[None]:
    """Give the function the code of its changed source, so that everybody who imported it has the bug."""
    function = _function(module, name)
    namespace: dict[str, Any] = {}
    source = _replaced(textwrap.dedent(inspect.getsource(function)), bug)
    exec(compile(f"from __future__ import annotations\n{source}", f"<{bug.id}>", "exec"), dict(function.__globals__), namespace)
    changed = inspect.unwrap(_plain(namespace[function.__name__]))
    original: CodeType = function.__code__
    function.__code__ = changed.__code__
    try:
        yield
    finally:
        function.__code__ = original


def _function(module: ModuleType, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    function = inspect.unwrap(_plain(found))  # what a decorator wraps is what runs
    if not isinstance(function, FunctionType):
        raise TypeError(f"{module.__name__}:{name} is no function, but {function!r}")
    return function


def _plain(found: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = found.func if isinstance(found, cached_property) else found
    return function


def _replaced(source: str, bug: Bug) -> str:
    if (count := source.count(bug.old)) != 1:
        raise ValueError(f"{bug.id}: {bug.old!r} occurs {count} times in {bug.where}, should be once")
    return source.replace(bug.old, bug.new)
