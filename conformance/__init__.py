"""Is this implementation the method? Cases, traces, checks, verdicts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.certification import Certificate, certify

__all__ = ["Certificate", "certify"]


def __getattr__(name: str) -> Any:
    # Lazy: the pytest plugin lives in this package and must not import torch.
    if name in __all__:
        from conformance import certification as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
