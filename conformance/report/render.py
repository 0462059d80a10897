"""From a finished run to `reports/` and README, or to the list of what differs from them."""

import json
import re
from pathlib import Path

from conformance import floor_run, run_folder, search_results
from conformance.bench import results as times
from conformance.bench.results import Times
from conformance.drift import results as drift_results
from conformance.drift.releases import RELEASES
from conformance.drift.results import Drift
from conformance.policy import RATIO
from conformance.report import (
    audit,
    authors,
    badges,
    bugs,
    drift,
    floor_plot,
    history,
    performance,
    performance_plots,
    plot,
    searched,
    third_party,
    upstream,
    whole,
)
from conformance.report.markdown import table
from conformance.report.sections import made_with
from conformance.report.summary import Summary
from conformance.search_results import Searched
from conformance.suite_of import suite_of
from conformance.variants import known
from conformance.whole import results as whole_results
from conformance.whole.results import Sheet
from refs.threads import one_thread

START, END = "<!-- verdicts -->", "<!-- /verdicts -->"
VERDICTS, HISTORY, KNOWN_BUGS, UPSTREAM, AUTHORS = "verdicts.json", "history.md", "known-bugs.md", "upstream.md", "authors.md"
BESIDE = {
    "Bugs that the suites catch": KNOWN_BUGS,
    "bugs found upstream": UPSTREAM,
    "peft against author": AUTHORS,
    "layers of other libraries": third_party.INDEX,
}
INTRODUCTION = """Is the implementation in `lite/` the method? One row per variant, one page each; README says how to read a verdict.
Rendered by `nox -s report` from a full run, never by hand. A dash: there is no such reference yet."""


def render(run: Path, root: Path) -> list[Path]:
    """Write all pages, badges and plots of a full run below `root`/reports, and README's table. Returns what was written.

    Search, drift, third parties, whole models and times have their own data beside their pages: they are replaced if the run's folder holds a whole
    search of all variants, a run over all releases, a third party's certificate, a check on all models, the whole grid of times.
    Raises FileNotFoundError without a run or README, ValueError if the run was narrowed or damaged or README has no markers.
    """
    pages = _pages(_full(run), root, run)
    for path in pages:
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(pages)


def check(run: Path, root: Path) -> list[str]:
    """What differs between a full run and the committed pages: verdicts, divergences, doc gaps, and everything that shows them.

    Numbers, versions, the case that gave a number, and the choice of `identical` or `equivalent` may differ from machine to
    machine; plots are not compared. A run says nothing about search, drift and third parties; these pages, and those of whole models, have to be those of their
    committed data.
    Raises as `render` does.
    """
    summaries = _full(run)
    reports = root / "reports"
    try:
        committed = json.loads(_text(reports / VERDICTS) or "{}")
    except ValueError as error:
        raise ValueError(f"{reports / VERDICTS} is damaged ({error}); render it again with: nox -s report") from error
    found = []
    for summary in summaries:
        for key, now in summary.to_dict().items():
            before = committed.get(summary.variant, {}).get(key)
            found += [f"{summary.variant}, {change}" for change in _changes(key, before, now)]
    found += whole_results.changes(run, reports)
    pages = _pages(summaries, root, None)
    for path, text in pages.items():
        if path.name != VERDICTS and _comparable(path, _text(path)) != _comparable(path, text):
            found.append(f"{path.relative_to(root).as_posix()} is not what this run renders")
    strangers = [path for path in sorted(reports.rglob("*")) if path.is_file() and path not in pages]
    return found + [f"{path.relative_to(root).as_posix()} belongs to no variant" for path in strangers]


def _pages(summaries: list[Summary], root: Path, run: Path | None) -> dict[Path, str]:
    """Everything that is rendered; the history is the committed one, continued.

    run: where new data of the search, of drift, of third parties and of whole models may be; without them those that are committed stay.
    """
    reports, readme = root / "reports", root / "README.md"
    search, releases, sheets = _searched(run, reports), _releases(run, reports), whole_results.current(run, reports)
    timed = times.current(run, reports)
    past = history.continued(_text(reports / HISTORY), summaries)
    pages = {
        readme: _with_table(readme.read_text(encoding="utf-8"), summaries),
        reports / HISTORY: past,
        reports / "README.md": _index(summaries, past, _others(search, releases, sheets, timed)),
        reports / UPSTREAM: upstream.page(),
        reports / AUTHORS: authors.page(summaries),
        reports / VERDICTS: _verdicts(summaries),
        reports / KNOWN_BUGS: bugs.page(summaries),
        **third_party.pages(reports, run),
    }
    if search:
        pages |= {reports / "search.md": searched.page(search), reports / search_results.FILE: search_results.to_json(search)}
    if releases:
        pages |= {reports / "drift.md": drift.page(releases), reports / drift_results.FILE: drift_results.to_json(releases)}
    if timed.cells:
        pages |= {reports / performance.FILE: performance.page(timed), reports / times.FILE: times.to_json(timed)}
        pages |= {reports / "plots" / name: text for name, text in performance_plots.plots(timed.cells).items()}
    if sheets:
        pages |= {reports / name: text for name, text in whole.pages(sheets).items()}
        pages[reports / whole_results.FILE] = whole_results.to_json(sheets)
    for summary in summaries:
        with one_thread():
            pages[reports / f"{summary.variant}.md"] = audit.page(suite_of(summary.variant), summary)
        pages[reports / "plots" / f"{summary.variant}.svg"] = plot.svg(summary)
        pages[reports / "plots" / f"{summary.variant}-floor.svg"] = floor_plot.svg(summary.variant, summary.floors)
        pages[reports / "badges" / f"{summary.variant}.json"] = badges.endpoint(summary)
        pages[reports / "badges" / f"{summary.variant}.svg"] = badges.svg(summary)
    return pages


def _searched(run: Path | None, reports: Path) -> Searched | None:
    new = search_results.read(run) if run else None
    return new if new and new.is_complete(known()) else search_results.read(reports)


def _releases(run: Path | None, reports: Path) -> Drift | None:
    new = drift_results.read(run) if run else None
    return new if new and new.is_complete(RELEASES) else drift_results.read(reports)


def _comparable(path: Path, text: str) -> str:
    """What of a page must be the same on every machine."""
    if path.parent.name == "plots":
        return "a plot" if text.rstrip().endswith("</svg>") else text
    if path.suffix != ".md" or path.name in (HISTORY, UPSTREAM, "drift.md") or path.parent.name != "reports":
        return text
    text = re.sub(r"^Made with .*|Made with .*\.$", "", text.partition("## Reproduce")[0], flags=re.MULTILINE)
    text = re.sub(r"^## Detection floor$.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)  # numbers only; `void` is a verdict
    text = re.sub(r"\bidentical\b|\bequivalent( ≤ [^\]|]*[^\]| ])?", "equivalent", text)
    return re.sub(r"(?<![A-Za-z\d^])(2\^-?\d+|\d[\d.–:]*)", "#", text)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _changes(key: str, before: object, now: object) -> list[str]:
    if isinstance(now, dict):
        old = before if isinstance(before, dict) else {}
        return [f"{name}: committed {old.get(name, 'nothing')!r}, now {now.get(name, 'nothing')!r}" for name in {**old, **now} if old.get(name) != now.get(name)]  # fmt: skip
    return [] if before == now else [f"{key}: committed {before!r}, now {now!r}"]


def _full(run: Path) -> list[Summary]:
    certificates = run_folder.read(run)
    narrowed = [c.variant for c in certificates if not c.complete]
    if missing := [name for name in known() if name not in {c.variant for c in certificates}] + narrowed:
        raise ValueError(
            f"{run} holds a narrowed run ({', '.join(missing)} not run in full); pages need all of: {', '.join(known())}"
        )
    floors = floor_run.read(run)
    if unmeasured := [name for name in known() if name not in floors]:
        raise ValueError(f"{run} holds no detection floor of {', '.join(unmeasured)}; make it with: nox -s floor")
    return [Summary(certificate, floors[certificate.variant]) for certificate in certificates]


def _verdicts(summaries: list[Summary]) -> str:
    return json.dumps({summary.variant: summary.to_dict() for summary in summaries}, indent=1, ensure_ascii=False) + "\n"


def _with_table(readme: str, summaries: list[Summary]) -> str:
    if START not in readme or END not in readme:
        raise ValueError(f"README.md has no place for the table of verdicts: put {START} and {END} where it should be")
    rows = [
        [
            f"[{s.variant}](reports/{s.variant}.md)",
            f"![{s.verdict}](reports/badges/{s.variant}.svg)",
            *(s.against(name) for name in ("closed form", "peft", "author")),
            ", ".join(s.divergences) or "none",
            str(len(s.certificate.doc_gaps)) if s.certificate.doc_gaps else "none",
        ]
        for s in summaries
    ]
    header = ["variant", "verdict", "paper", "peft", "author", "divergences", "doc gaps"]
    return re.sub(f"{START}.*{END}", lambda _: f"{START}\n{table(header, rows)}\n{END}", readme, flags=re.DOTALL)


def _others(search: Searched | None, releases: Drift | None, sheets: dict[str, Sheet], timed: Times) -> list[str]:
    """What the index says of the pages that have their own data."""
    return [
        *([f"[Search](search.md): {search.cases} generated cases, {len(search.alarms)} alarms."] if search else []),
        *([f"[Drift](drift.md) between {len(releases.releases)} releases of peft."] if releases else []),
        *whole.lines(sheets),
        *([f"[Performance]({performance.FILE}): time and memory of lite's layers beside peft's."] if timed.cells else []),
    ]


def _index(summaries: list[Summary], past: str, others: list[str]) -> str:
    rows = [
        [
            f"[{s.variant}]({s.variant}.md)",
            history.was_and_is(past, s.variant),
            *(s.against(name) for name in ("peft", "author", "closed form")),
            str(len(s.cases)),
            str(len(s.real_cases)),
            f"{s.worst_in('u64')} u64",
            f"{s.worst_in(RATIO)} ×",
            ", ".join(s.divergences) or "none",
            "; ".join(s.certificate.doc_gaps) or "none",
        ]
        for s in summaries
    ]
    header = [
        "variant",
        "was → is",
        "peft",
        "author",
        "paper",
        "cases",
        "real weights",
        "worst, float64",
        "worst ratio below",
        "divergences",
        "doc gaps",
    ]
    parts = [
        "# Audits",
        INTRODUCTION,
        table(header, rows),
        f"{', '.join(f'[{title}]({page})' for title, page in BESIDE.items())}.",
        *others,
        f"[Verdict history]({HISTORY}). {' '.join(dict.fromkeys(made_with(s.certificate.machine) for s in summaries))}",
    ]
    return "\n\n".join(parts) + "\n"
