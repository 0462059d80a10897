"""The page of bugs found in the references. It shows the table's data; the test of the findings proves these by running."""

from conformance.findings import CHOICES, FINDINGS, RELEASES, Finding
from conformance.report.markdown import section, table

INTRODUCTION = """Bugs that live in peft and other libraries today, each with a script of public calls: copy it, `pip install torch peft loralib attrs` (attrs: peft imports it
for CorDA and does not require it; what the others need: [other libraries](third-party/README.md)), run it on Python 3.11 or newer.
`python -m conformance findings` runs them all on the releases that are installed and says which are still there.

Sizes are relative errors, ‖got − right‖ / ‖right‖, where a section says nothing else; rounded up to powers of two. Each was measured on every release
that has a column below. Rows of the suites are written as `python -m conformance reproduce` takes them. *New*: in no tracker that we searched.
Where an author's layer differs from peft's: [peft against author](authors.md)."""


def page() -> str:
    """All findings in tables, then a section each."""
    parts = [
        "# Found upstream",
        INTRODUCTION,
        table(["finding", "size", "releases", "row of a suite", "new"], (_row(finding) for finding in FINDINGS)),
        *(section(f"Sizes in {library}", _by_release(library)) for library in RELEASES),
        *(section(finding.id, *_section(finding)) for finding in FINDINGS),
        section("What is no bug", table(["difference", "why it is a choice"], CHOICES.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _row(finding: Finding) -> list[str]:
    with_it = [release for release, size in finding.by_release.items() if size]
    releases = f"{finding.library} {' – '.join(dict.fromkeys((with_it[0], with_it[-1])))}"
    size = finding.words(finding.sizes[-1])
    return [
        f"[{finding.title}](#{finding.id})",
        size,
        releases,
        f"`{finding.cell}`" if finding.cell else _page(finding) or "–",
        "" if finding.known else "new",
    ]


def _page(finding: Finding) -> str:
    return f"[{finding.page}](third-party/{finding.page}.md)" if finding.page else ""


def _by_release(library: str) -> str:
    own = [finding for finding in FINDINGS if finding.library == library]
    rows = ([f"[{finding.id}](#{finding.id})", *map(finding.words, finding.sizes)] for finding in own)
    note = "\n\nA dash: the release does not have the method." if any(None in finding.sizes for finding in own) else ""
    return table(["finding", *RELEASES[library]], rows) + note


def _section(finding: Finding) -> list[str]:
    code = finding.script.read_text(encoding="utf-8").split('"""', 2)[2].strip()
    lines = [
        f"**Run it:** `python {finding.script.name}`, or `python -m conformance findings {finding.id}`.",
        f"**In our suites:** {_where(finding)}.",
        f"**Hidden by:** {finding.hidden_by}.",
        f"**Source:** {finding.source}",
        f"**Told before:** {finding.known or 'in no tracker that we searched'}.",
    ]
    return [*finding.paragraphs, f"```python\n{code}\n```", "\n".join(f"- {line}" for line in lines)]


def _where(finding: Finding) -> str:
    if finding.page:
        return f"{_page(finding)} is red for it"
    if not finding.cell:
        return f"no row: {finding.says}"
    command = f"`python -m conformance reproduce {finding.cell}`"
    if finding.divergences:
        own, *others = finding.divergences
        return f"{command} shows it as {own}" + (f", the same row of other suites as {', '.join(others)}" if others else "")
    if finding.says:
        return f"{command} shows it: “{finding.says}”"
    if finding.planted:
        return f"{command} asks the same of lite, and is red when `{finding.planted}` is planted there"
    return f"{command} asks the same of lite"
