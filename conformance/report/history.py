"""The verdict history: one line for each change of a verdict."""

import re

from conformance.report.markdown import table
from conformance.report.summary import Summary

HEAD = (
    "# Verdict history\n\nOne line for each change of a verdict, the newest last; written when the pages are rendered.\n\n"
    + table(["variant", "verdict", "references"], [])
)


def verdicts(history: str, variant: str) -> list[str]:
    """All verdicts a variant has had, in order."""
    return re.findall(rf"^\| {re.escape(variant)} \| (.*?) \|", history, flags=re.MULTILINE)


def continued(history: str, summaries: list[Summary]) -> str:
    """The history with a line for each verdict that is another than the last; unchanged if none is."""
    lines = [history.rstrip() or HEAD]
    for summary in summaries:
        if verdicts(history, summary.variant)[-1:] != [summary.verdict]:
            backing = "; ".join(f"{name}: {version}" for name, version in summary.references.items())
            lines.append(f"| {summary.variant} | {summary.verdict} | {backing} |")
    return "\n".join(lines) + "\n"


def was_and_is(history: str, variant: str) -> str:
    """The last change: "faithful → buggy"."""
    before = ["–", *verdicts(history, variant)]
    return " → ".join(before[-2:])
