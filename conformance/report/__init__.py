"""The committed pages: rendered from a full run, checked against one. Nothing in `reports/` is written by hand."""

from conformance.report.render import check, render

__all__ = ["check", "render"]
