"""Is this implementation the method? Cases, traces, checks, verdicts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.certificate import Certificate
    from conformance.certification import certify

__all__ = ["Certificate", "certify"]


def __getattr__(name: str) -> Any:
    # Lazy: the pytest plugin lives in this package and must not import torch.
    if name == "certify":
        from conformance.certification import certify

        return certify
    if name == "Certificate":
        from conformance.certificate import Certificate

        return Certificate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
