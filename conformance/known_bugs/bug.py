"""What a known bug is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One bug.

    id: short name. variant: the suite that has to see it.
    description, effect, source, hidden_by: what was wrong, how large, who reported it, why tests missed it.
    where: a variant's module ("lite.variants.lora"), or a function of the runtime ("lite.runtime:commit").
    old, new: the text that is replaced there; `old` has to occur exactly once.
    red: exactly the checks that turn red. message: what a red measurement has to say.
    """

    id: str
    variant: str
    description: str
    effect: str
    source: str
    hidden_by: str
    where: str
    old: str
    new: str
    red: frozenset[str]
    message: str
