"""python -m conformance: what there is, what it means, one measurement again, bugs upstream, and the committed pages."""

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.findings import FINDINGS
from conformance.variants import check_known, known, suite_file

RUN = Path(".conformance")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do it. Returns the exit status: 0, 1 for a red or differing result, 2 for unusable input."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description="Is this implementation the method?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="the variants that have a suite")
    command.add_argument("--json", action="store_true", help="as a JSON list of names, for the matrix of a CI job")
    command.set_defaults(run=_list)

    command = commands.add_parser("explain", help="what a variant's suite, or one of its checks, does")
    command.add_argument("variant", metavar="VARIANT", help=f"one of {', '.join(known())}")
    command.add_argument("check", metavar="CHECK", nargs="*", help='e.g. "forward"; without it, all checks in a line each')
    command.set_defaults(run=_explain)

    command = commands.add_parser("reproduce", help="run the one case of a measurement and print its table")
    command.add_argument(
        "id",
        metavar="ID",
        help="VARIANT/REFERENCE-CHECK or VARIANT/REFERENCE-CHECK/CASE, as failures print it; e.g. lora/peft-forward",
    )
    command.set_defaults(run=_reproduce)

    command = commands.add_parser(
        "search", help="draw thousands of cases of any shape and scale, and climb towards the largest error"
    )
    command.add_argument("variant", metavar="VARIANT", nargs="*", help=f"all by default; known: {', '.join(known())}")
    command.add_argument("--cases", type=_count, default=10_000, help="when to stop (default %(default)s)")
    command.add_argument("--minutes", type=_minutes, help="when to stop in any case (default: never)")
    command.add_argument(
        "--jobs", type=_count, default=os.cpu_count() or 1, help="processes (default: one a core, here %(default)s)"
    )
    command.add_argument("--largest", type=_count, default=512, help="the largest d_in and d_out (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="the same one draws the same cases (default %(default)s)")
    command.add_argument("--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where to write search.json (default {RUN})")
    command.set_defaults(run=_search)

    command = commands.add_parser("bugs", help="plant every known bug and show which checks turn red")
    command.add_argument("variant", metavar="VARIANT", nargs="*", help=f"all by default; known: {', '.join(known())}")
    command.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    command.set_defaults(run=_bugs)

    command = commands.add_parser("floor", help="the smallest error in a layer that turns its verdict, by bisection")
    command.add_argument("variant", metavar="VARIANT", nargs="*", help=f"all by default; known: {', '.join(known())}")
    command.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, help="processes (default %(default)s)")
    command.add_argument(
        "--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where it is kept for the pages (default {RUN})"
    )
    command.set_defaults(run=_floor)

    command = commands.add_parser(
        "findings", help="run the scripts of reports/upstream.md: which bugs of the references are still there"
    )
    command.add_argument(
        "finding", metavar="FINDING", nargs="*", help=f"all by default; known: {', '.join(f.id for f in FINDINGS)}"
    )
    command.set_defaults(run=_findings)

    command = commands.add_parser("drift", help="run releases of peft one after the other, and show what changed between them")
    command.add_argument("release", metavar="RELEASE", nargs="*", help="all since 0.15 by default")
    command.add_argument("--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where to write drift.json (default {RUN})")
    command.set_defaults(run=_drift)

    command = commands.add_parser(
        "model",
        help="look at a transformers checkpoint of yours, and at an adapter saved for it",
        description="Layer by layer, on real text: which layers each variant adapts, whether it starts as the model that you have "
        "(relative to the size of each layer's output), which of its parameters could never learn, and whether it is peft's layer. "
        "Needs no network and runs no code from the folder; the memory of the model and of one layer's working set. "
        "Exits with 1 if anything fails, with 2 for a folder that cannot be used.",
    )
    command.add_argument(
        "folder", metavar="DIR", type=Path, help="a local checkpoint: config.json and safetensors; its tokenizer, if it has one"
    )
    command.add_argument(
        "--adapter",
        metavar="PATH",
        type=Path,
        help="a saved adapter, too: lite's .safetensors file or a folder of peft's. Does it load, does it move the output, is anything ignored?",
    )
    command.add_argument("--variant", metavar="NAME", nargs="+", default=[], help=f"all by default; known: {', '.join(known())}")
    command.add_argument(
        "--targets",
        metavar="REGEX",
        nargs="+",
        default=[],
        help="layers to adapt, searched for in their full names (default: lite's choice)",
    )
    command.add_argument(
        "--text", metavar="FILE", type=Path, help="what the model reads, its first 64 tokens (default: a text that is built in)"
    )
    command.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured there, too")
    command.set_defaults(run=_model)

    command = commands.add_parser("third-party", help="certify the layers of loralib, torchtune and others, as they are installed")
    command.add_argument(
        "name", metavar="NAME", nargs="*", help="a library, or the page of one of its layers; by default all that are installed"
    )
    command.add_argument("--check", action="append", default=[], help="this check only; then no page is made of it")
    command.add_argument("--case", metavar="ID", help="the one case of this id, as failures print it")
    command.add_argument(
        "--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where it is kept for the pages (default {RUN})"
    )
    command.set_defaults(run=_third_party)

    command = commands.add_parser("refs", help="clone the authors' repositories at their pinned commits, and verify every file")
    command.add_argument("layer", metavar="LAYER", nargs="*", help="all by default")
    command.set_defaults(run=_refs)

    command = commands.add_parser("record", help="run the authors' layers again and compare with their recorded traces")
    command.add_argument("layer", metavar="LAYER", nargs="*", help="all by default")
    command.add_argument("--write", action="store_true", help="keep the new traces where they differ")
    command.set_defaults(run=_record)

    command = commands.add_parser("report", help="render reports/ and README's table from a full run")
    command.add_argument("--check", action="store_true", help="write nothing; fail if a verdict, a divergence or a doc gap differs")
    command.add_argument("--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where the run is (default {RUN})")
    command.add_argument("--root", metavar="DIR", type=Path, default=Path(), help="the checkout (default here)")
    command.add_argument(
        "--merge",
        metavar="DIR",
        type=Path,
        nargs="+",
        default=[],
        help="first make one run of these, in --run-folder: one per variant, or per machine",
    )
    command.set_defaults(run=_report)

    command = commands.add_parser("summary", help="the verdict tables of the last run in markdown, for a job summary")
    command.add_argument("--run-folder", metavar="DIR", type=Path, default=RUN, help=f"where the run is (default {RUN})")
    command.set_defaults(run=_summary)
    return parser


def _list(options: argparse.Namespace) -> int:
    if options.json:
        _say(json.dumps(known()))
    else:
        width = max(map(len, known()))
        for name in known():
            _say(f"{name:{width}}  {ast.get_docstring(ast.parse(suite_file(name).read_text()))}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    check_known([options.variant])
    from conformance.explain import explain

    _say(explain(options.variant, " ".join(options.check) or None))
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from conformance.explain import reproduced
    from conformance.terminal import measurement_table

    certificate = reproduced(options.id)
    _say(measurement_table(certificate.measurements))
    return 1 if certificate.red else 0


def _search(options: argparse.Namespace) -> int:
    check_known(options.variant)
    os.environ.setdefault("TQDM_DISABLE", "1")  # of lite, attached thousands of times
    from conformance.hunt import report

    limits = {name: getattr(options, name) for name in ("cases", "minutes", "largest", "seed")}
    return report(options.variant or known(), options.run_folder, processes=options.jobs, **limits)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, got {text}")
    return int(text)


def _minutes(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal() or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"should be a number above 0, got {text!r}")
    return float(text)


def _bugs(options: argparse.Namespace) -> int:
    from conformance.kill_matrix import report

    return report(options.variant, processes=options.jobs)


def _floor(options: argparse.Namespace) -> int:
    from conformance.floor_run import report

    return report(options.variant, processes=options.jobs, folder=options.run_folder)


def _findings(options: argparse.Namespace) -> int:
    from conformance.findings.measure import chosen, report

    return report(chosen(options.finding))


def _drift(options: argparse.Namespace) -> int:
    from conformance.drift.measure import report

    return report(options.release, options.run_folder)


def _model(options: argparse.Namespace) -> int:
    check_known(options.variant)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported
    os.environ.setdefault("TQDM_DISABLE", "1")  # of lite, attached to every layer
    from conformance.model.command import report

    return report(
        options.folder,
        variants=options.variant,
        targets=options.targets,
        adapter=options.adapter,
        text=options.text,
        file=options.json,
    )


def _third_party(options: argparse.Namespace) -> int:
    from conformance.third_party_run import report

    return report(options.name, options.run_folder, options.check, options.case)


def _refs(options: argparse.Namespace) -> int:
    from conformance.authors import fetch

    return fetch(options.layer)


def _record(options: argparse.Namespace) -> int:
    from conformance.authors import record

    return record(options.layer, write=options.write)


def _report(options: argparse.Namespace) -> int:
    from conformance import merged
    from conformance.report import render as report

    if options.merge:
        merged.merge(options.merge, options.run_folder)
    if not options.check:
        for path in report.render(options.run_folder, options.root):
            _say(f"wrote {path}")
        return 0
    differences = report.check(options.run_folder, options.root)
    for difference in differences:
        _say(difference)
    _say(
        f"{len(differences)} differences; render with: nox -s report"
        if differences
        else "the committed pages say what this run says"
    )
    return 1 if differences else 0


def _summary(options: argparse.Namespace) -> int:
    from conformance.run_folder import job_summary

    _say(job_summary(options.run_folder))
    return 0


def _say(text: str) -> None:
    print(text)  # noqa: T201 a command line prints


if __name__ == "__main__":
    sys.exit(main())
