"""The checks: plain functions from a trial to measurements, each a sentence in its docstring."""

from conformance.check import CHECKS, Check

# For their entries in the table, in the order of the verdict table's rows.
from conformance.checks import function, lifecycle, start, structure  # noqa: F401

__all__ = ["CHECKS", "Check"]
