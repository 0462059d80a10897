"""What a check is, and the table of all checks."""

from collections.abc import Callable
from dataclasses import dataclass

from conformance.trial import Trial


@dataclass(frozen=True, slots=True)
class Check:
    """A check's name, its function, and whom it compares with: every reference, or the candidate with itself.

    among_references: whether references are compared with each other by it, too.
    """

    name: str
    function: Callable[[Trial], None]
    needs_reference: bool
    among_references: bool

    @property
    def sentence(self) -> str:
        """What it checks."""
        return " ".join((self.function.__doc__ or "").split())


CHECKS: dict[str, Check] = {}


def check(*, needs_reference: bool, among_references: bool = False) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Enter a function into the table under its own name."""

    def enter(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        name = function.__name__.replace("_", " ")
        CHECKS[name] = Check(name, function, needs_reference, among_references)
        return function

    return enter
