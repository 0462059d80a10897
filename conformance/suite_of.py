"""The suite of a variant, by name."""

import importlib

from conformance.suite import Suite
from conformance.variants import check_known


def suite_of(variant: str) -> Suite:
    """The suite of a known variant; ValueError that lists them for another."""
    check_known([variant])
    suite: Suite = importlib.import_module(f"conformance.suites.test_{variant}").SUITE
    return suite
