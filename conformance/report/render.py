"""From a finished run to `reports/` and README, or to the list of what differs from them."""

import importlib
import json
import re
from pathlib import Path

from conformance import run_folder
from conformance.policy import RATIO
from conformance.report import audit, badges, history, plot
from conformance.report.markdown import table
from conformance.report.summary import Summary
from conformance.variants import known
from refs.threads import one_thread

START, END = "<!-- verdicts -->", "<!-- /verdicts -->"
VERDICTS, HISTORY = "verdicts.json", "history.md"
INTRODUCTION = """Is the implementation in `lite/` the method? One row per variant, one page each; README says how to read a verdict.
Rendered by `nox -s report` from a full run, never by hand. A dash: there is no such reference yet."""


def render(run: Path, root: Path) -> list[Path]:
    """Write all pages, badges and plots of a full run below `root`/reports, and README's table. Returns what was written.

    Raises FileNotFoundError without a run or README, ValueError if the run was narrowed or README has no markers.
    """
    summaries, machine = _full(run)
    reports, readme = root / "reports", root / "README.md"
    pages = {readme: _with_table(readme.read_text(encoding="utf-8"), summaries)}
    past = reports / HISTORY
    pages[past] = history.continued(past.read_text(encoding="utf-8") if past.exists() else "", summaries)
    pages[reports / "README.md"] = _index(summaries, pages[past], machine)
    pages[reports / VERDICTS] = _verdicts(summaries)
    for summary in summaries:
        suite = importlib.import_module(f"conformance.suites.test_{summary.variant}").SUITE
        with one_thread():
            pages[reports / f"{summary.variant}.md"] = audit.page(suite, summary, machine)
        pages[reports / "plots" / f"{summary.variant}.svg"] = plot.svg(summary)
        pages[reports / "badges" / f"{summary.variant}.json"] = badges.endpoint(summary)
        pages[reports / "badges" / f"{summary.variant}.svg"] = badges.svg(summary)
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return list(pages)


def check(run: Path, root: Path) -> list[str]:
    """What differs between a full run and the committed pages: verdicts, divergences, doc gaps, and what shows them.

    Errors in u, machines and versions may differ. Raises as `render` does.
    """
    summaries, _ = _full(run)
    reports = root / "reports"
    committed = json.loads(_text(reports / VERDICTS) or "{}")
    found = [f"{name}: has a page, is no variant any more" for name in committed if name not in known()]
    for summary in summaries:
        for key, now in summary.to_dict().items():
            before = committed.get(summary.variant, {}).get(key)
            found += [f"{summary.variant}, {change}" for change in _changes(key, before, now)]
        if _text(reports / "badges" / f"{summary.variant}.json") != badges.endpoint(summary):
            found.append(f"{summary.variant}: reports/badges/{summary.variant}.json does not say {summary.verdict!r}")
        if f"**{summary.verdict}**" not in _text(reports / f"{summary.variant}.md"):
            found.append(f"{summary.variant}: reports/{summary.variant}.md does not say {summary.verdict!r}")
    readme = _text(root / "README.md")
    if readme != _with_table(readme, summaries):
        found.append("README's table of verdicts is not that of this run")
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _changes(key: str, before: object, now: object) -> list[str]:
    if isinstance(now, dict):
        old = before if isinstance(before, dict) else {}
        return [f"{name}: committed {old.get(name, 'nothing')!r}, now {now.get(name, 'nothing')!r}" for name in {**old, **now} if old.get(name) != now.get(name)]  # fmt: skip
    return [] if before == now else [f"{key}: committed {before!r}, now {now!r}"]


def _full(run: Path) -> tuple[list[Summary], dict[str, str]]:
    certificates, machine = run_folder.read(run)
    narrowed = [c.variant for c in certificates if not c.complete]
    if missing := [name for name in known() if name not in {c.variant for c in certificates}] + narrowed:
        raise ValueError(
            f"{run} holds a narrowed run ({', '.join(missing)} not run in full); pages need all of: {', '.join(known())}"
        )
    return [Summary(certificate) for certificate in certificates], machine


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


def _index(summaries: list[Summary], past: str, machine: dict[str, str]) -> str:
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
        f"[Verdict history]({HISTORY}). Made with {', '.join(f'{name} {value}' for name, value in machine.items())}.",
    ]
    return "\n\n".join(parts) + "\n"
