"""Where a piece of code stands."""

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def location(code: Callable[..., Any]) -> str:
    """File, relative to its package, and lines of a function: "tuners/delora/layer.py:223–262"; its module if no file has it."""
    plain = inspect.unwrap(code)
    if not Path(inspect.getfile(plain)).is_file():
        return str(plain.__module__)
    package = sys.modules[plain.__module__.partition(".")[0]]
    lines, first = inspect.getsourcelines(plain)
    root = Path(str(package.__file__)).parent
    return f"{Path(inspect.getfile(plain)).relative_to(root).as_posix()}:{first}–{first + len(lines) - 1}"
