"""What a check is."""

from collections.abc import Callable
from dataclasses import dataclass

from conformance.trial import Trial


@dataclass(frozen=True, slots=True)
class Check:
    """A plain function from a trial to measurements, a sentence in its docstring.

    needs_reference: whether it compares with every reference, or the candidate with itself.
    among_references: whether references are compared with each other by it, too.
    """

    function: Callable[[Trial], None]
    needs_reference: bool
    among_references: bool

    @property
    def name(self) -> str:
        """As in the verdict table."""
        return self.function.__name__.replace("_", " ")

    @property
    def sentence(self) -> str:
        """What it checks."""
        return " ".join((self.function.__doc__ or "").split())


def check(*, needs_reference: bool, among_references: bool = False) -> Callable[[Callable[[Trial], None]], Check]:
    """Make a function a check."""
    return lambda function: Check(function, needs_reference, among_references)
