"""What the installed release of peft has, by name: a suite has to be there for a release that is older than its method, too."""

import pkgutil
from dataclasses import dataclass
from importlib import metadata
from typing import Any

VERSION = metadata.version("peft")


@dataclass(frozen=True)
class Absent:
    """What the installed release does not have."""

    name: str

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Raises ImportError."""
        raise ImportError(f"peft {VERSION} has no {self.name}")


def installed(name: str) -> Any:
    """An object of peft, named as "peft.tuners.road.layer:Linear.forward"; `Absent` if this release has none."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return Absent(name.replace(":", "."))
