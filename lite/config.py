"""What every config shares: where to attach, in which dtype, and options that refuse nonsense."""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import torch

C = TypeVar("C")
Check = Callable[[Any], str | None]  # what is wrong with the value, or None

ARITHMETIC = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # dtypes that torch computes with
ROLES = ("reader", "writer", "inner")


def option(default: Any, check: Check) -> Any:
    """A config field: its default and the check its value has to pass."""
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def options(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only dataclass whose `TypeError` for an unknown option lists the known ones."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    known = [field.name for field in dataclasses.fields(made)]
    generated = made.__init__

    @functools.wraps(generated)
    def init(self: Any, *args: Any, **given: Any) -> None:
        if args:
            raise TypeError(f"{cls.__name__} takes its options by keyword, got {args!r}; options: {', '.join(known)}")
        if unknown := [name for name in given if name not in known]:
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
        generated(self, **given)

    made.__init__ = init
    return cls


def at_least_one(value: Any) -> str | None:
    """Factors that only enlarge."""
    return "must be a finite number of at least 1" if finite(value) or value < 1 else None


def positive_int(value: Any) -> str | None:
    """Ranks and sizes."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if ok else "must be an integer of at least 1"


def even(value: Any) -> str | None:
    """Sizes of what comes in pairs or halves."""
    return "must be an even integer of at least 2" if positive_int(value) or value % 2 else None


def finite(value: Any) -> str | None:
    """Scales of either sign."""
    ok = (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )  # no OverflowError for huge integers
    return None if ok else "must be a finite number"


def positive(value: Any) -> str | None:
    """Scales: zero would switch the adapter off."""
    return "must be a finite number above 0" if finite(value) or value <= 0 else None


def probability(value: Any) -> str | None:
    """Dropout: 1 would drop everything and divide by zero."""
    return "must be a number in [0, 1)" if finite(value) or not 0 <= value < 1 else None


def fraction(value: Any) -> str | None:
    """Strengths that are clamped: beyond, they would have no gradient."""
    return "must be a number in [0, 1]" if finite(value) or not 0 <= value <= 1 else None


def flag(value: Any) -> str | None:
    """Switches."""
    return None if isinstance(value, bool) else "must be True or False"


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""

    def accepts(value: Any) -> str | None:
        problem = None if value is None else check(value)
        return problem and f"{problem}, or None"

    return accepts


def one_of(*allowed: str) -> Check:
    """Named choices."""
    return lambda value: None if value in allowed else f"must be one of {', '.join(map(repr, allowed))}"


def patterns(value: Any) -> str | None:
    """Regular expressions, as a sequence."""
    if not isinstance(value, tuple) or not all(isinstance(p, str) for p in value):
        return "must be a sequence of regular expressions"
    for pattern in value:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return f"holds {pattern!r}, which is no regular expression ({error})"
    return None


def roles(value: Any) -> str | None:
    """Roles of a layer towards the residual stream."""
    ok = isinstance(value, tuple) and all(role in ROLES for role in value)
    return None if ok else f"must be a sequence out of {', '.join(map(repr, ROLES))}"


def layer_indices(value: Any) -> str | None:
    """Block numbers."""
    ok = value is None or (isinstance(value, tuple) and all(type(i) is int and i >= 0 for i in value))
    return None if ok else "must be None or a sequence of layer numbers"


def floating_dtype(value: Any) -> str | None:
    """Adapter dtypes."""
    return None if value is None or value in ARITHMETIC else f"must be None or one of {', '.join(map(str, ARITHMETIC))}"


@options
class Config:
    """Where a method attaches. Methods add their own options.

    target_names: regular expressions, `re.search` on the full module name; () = every linear-like module.
    exclude_names: the same, for modules to leave alone.
    target_roles: "reader" (reads the residual stream), "writer" (writes it), "inner"; () = no filter.
    layers: numbers of the blocks to adapt (the first number in the module name), None = all.
    dtype: of the adapter; None = the base weight's (float32 if that is quantised).

    Raises TypeError for an unknown option, ValueError for a value that is out of range.
    """

    target_names: tuple[str, ...] = option((), patterns)
    exclude_names: tuple[str, ...] = option(("lm_head", "embed"), patterns)
    target_roles: tuple[str, ...] = option((), roles)
    layers: tuple[int, ...] | None = option(None, layer_indices)
    dtype: torch.dtype | None = option(None, floating_dtype)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if problem := field.metadata["check"](value):
                raise ValueError(f"{type(self).__name__}: {field.name} {problem}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values; `from_dict` reads them back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"dtype": str(self.dtype).removeprefix("torch.") if self.dtype else None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Rebuild a config from `to_dict`; raises as the constructor does."""
        name = values.get("dtype")
        dtype = getattr(torch, name, name) if isinstance(name, str) else name
        return cls(**(values | {"dtype": dtype}))
