"""How long lite's layers take beside peft's; attaching, saving and loading; and the suites, with their memory, beside the bare imports."""

import argparse
from pathlib import Path

from conformance.bench import attach, layers, suites
from conformance.bench.cell import VARIANTS


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m conformance.bench", description=__doc__)
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help="layers, attach, suites (default: all), or methods to time the layers of"
    )
    parser.add_argument("--runs", type=int, help="turns of each after one to warm up (default 3, of layers 15)")
    parser.add_argument(
        "--dir", type=Path, default=Path(".conformance/bench"), help="where measured cells are kept (default %(default)s)"
    )
    parser.add_argument(
        "--again", action="store_true", help="measure cells once more that are there already; the page takes the median of all runs"
    )
    asked = parser.parse_args()
    known = ("layers", "attach", "suites", *VARIANTS)
    if unknown := [word for word in asked.what if word not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    methods = [word for word in asked.what if word in VARIANTS]
    if not asked.what or "layers" in asked.what or methods:
        layers.report(asked.dir, asked.runs or 15, methods, again=asked.again)
    if not asked.what or "attach" in asked.what:
        attach.report(asked.runs or 3)
    if not asked.what or "suites" in asked.what:
        suites.report(asked.dir, asked.runs or 3)


if __name__ == "__main__":
    main()
