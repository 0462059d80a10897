"""Badges: shields' endpoint form, and a local SVG."""

import json

import anybadge

from conformance.report.summary import Summary

HEX = {"brightgreen": "#4c1", "green": "#97ca00", "yellow": "#dfb317", "red": "#e05d44"}


def endpoint(summary: Summary) -> str:
    """What shields.io reads; it refuses any key it does not know."""
    known = {"schemaVersion": 1, "label": summary.label, "message": summary.verdict, "color": summary.color}
    return json.dumps(known, ensure_ascii=False) + "\n"


def svg(summary: Summary) -> str:
    """The same as a picture."""
    badge = anybadge.Badge(summary.label, summary.verdict, default_color=HEX[summary.color])
    badge.mask_str = f"badge_{summary.label}"  # else a counter, and a second rendering would differ
    text: str = badge.badge_svg_text
    return text if text.endswith("\n") else text + "\n"
