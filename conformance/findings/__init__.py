"""Findings: bugs that live in the installed references today, as data and as scripts."""

from conformance.findings.table import CHOICES, FINDINGS, RELEASES, Finding

__all__ = ["CHOICES", "FINDINGS", "RELEASES", "Finding"]
