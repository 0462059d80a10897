"""Is this implementation the method? Cases, traces, checks, verdicts."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.certificate import Certificate
    from conformance.certification import certify
    from conformance.suite import Divergence

__all__ = ["Certificate", "Divergence", "certify"]


_HOME = {"Certificate": "certificate", "Divergence": "suite", "certify": "certification"}


def __getattr__(name: str) -> Any:
    # Lazy: the pytest plugin lives in this package and must not import torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"conformance.{_HOME[name]}"), name)
