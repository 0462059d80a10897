"""The pytest plugin: options and markers, and what becomes of the measurements of a run. Imports no torch."""

import functools
import gc
import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from conformance.variants import check_known, known
from conformance.verdict import Measurement

if TYPE_CHECKING:
    from conformance.certificate import Certificate

# Of a test's report: (suite, place of the cell in it, measurements), all plain values, which xdist can carry.
PROPERTY = "conformance cell"
WHOLE = "whole models"  # the same: (check, place of the cell in it, number of its cells, measurements)
Page = tuple[str, str]  # folder and name


class Suite(TypedDict):
    """What the report has to know of a suite."""

    variant: str
    name: str  # of its page, and
    folder: str  # where that goes; both empty for the suites of this project, which go to --conformance-dir
    size: int  # number of its cells
    doc_gaps: list[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--variant, --case and --conformance-dir."""
    group = parser.getgroup("conformance", "conformance of adapter methods")
    group.addoption(
        "--variant", action="append", default=[], metavar="NAME", help=f"run this variant only; known: {', '.join(known())}"
    )
    group.addoption("--peft", metavar="RELEASE", help="run against another peft: a version, a folder, a wheel or a git+https URL")
    group.addoption("--case", metavar="ID", help="run the one case of this id, as failures print it")
    group.addoption(
        "--conformance-dir",
        metavar="DIR",
        help="where a run's measurements and pages go (default .conformance, with --peft .conformance/peft-VERSION)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Another release of peft has to come before anybody imports it; xdist's workers take the one that is there."""
    wanted = early_config.known_args_namespace.peft
    if wanted:
        from conformance import release

        there = release.chosen() if "PYTEST_XDIST_WORKER" in os.environ else None
        try:
            release.use(there or release.prepare(wanted))
        except (ValueError, OSError) as error:
            raise pytest.UsageError(str(error)) from error


def pytest_configure(config: pytest.Config) -> None:
    """The marker, the collector of measurements, and an early word about unknown names."""
    config.addinivalue_line("markers", "variant(name): the adapter method a conformance test belongs to")
    asked = [
        *config.getoption("--variant"),
        *re.findall(r"variant\(name=['\"](\w+)['\"]\)", config.getoption("markexpr", "") or ""),
    ]
    try:
        check_known(asked)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(config), "conformance-collector")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`--variant` keeps the tests of these variants only. Two tests that write one page are a usage error."""
    _check_pages(items)
    wanted = config.getoption("--variant")
    if not wanted:
        return
    kept = [item for item in items if (mark := item.get_closest_marker("variant")) and mark.kwargs["name"] in wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """What torch, peft and transformers made when they were imported stays: it is not gone through whenever garbage is collected."""
    if any(item.get_closest_marker("variant") for item in session.items):
        gc.freeze()


def _check_pages(items: list[pytest.Item]) -> None:
    writers: dict[str, set[str]] = {}
    for item in items:
        mark = item.get_closest_marker("variant")
        if page := mark and mark.kwargs.get("page"):
            writers.setdefault(page, set()).add(item.nodeid.partition("[")[0])
    for page, tests in writers.items():
        if len(tests) > 1:
            raise pytest.UsageError(
                f"{' and '.join(sorted(tests))} write the same page {page}: give each certify.tests a name= of its own"
            )


class Collector:
    """Gathers the measurements of a run, on the process that reports it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.cells: dict[Page, dict[int, list[Measurement]]] = {}  # page → place in its suite → measurements
        self.suites: dict[Page, Suite] = {}
        self.whole: dict[str, dict[int, list[Measurement]]] = {}  # check → place of the cell → measurements
        self.whole_sizes: dict[str, int] = {}
        self.written: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take them from the call's report, wherever the test ran."""
        if report.when != "call":
            return
        found: list[Any] = [value for name, value in report.user_properties if name == PROPERTY]
        for suite, place, measurements in found:
            page = (suite["folder"], suite["name"] or suite["variant"])
            self.suites[page] = suite
            self.cells.setdefault(page, {})[place] = [Measurement.from_dict(m) for m in measurements]
        whole: list[Any] = [value for name, value in report.user_properties if name == WHOLE]
        for check, place, size, measurements in whole:
            self.whole_sizes[check] = size
            self.whole.setdefault(check, {})[place] = [Measurement.from_dict(m) for m in measurements]

    @functools.cached_property
    def certificates(self) -> dict[Page, "Certificate"]:
        """One per variant or page, in the same order whatever order the tests ran in; asked for when all have run."""
        from conformance.certificate import Certificate

        made = {}
        for page, cells in sorted(self.cells.items()):
            suite = self.suites[page]
            complete = len(cells) == suite["size"] and not self.config.getoption("--case")
            ordered = tuple(m for _, measurements in sorted(cells.items()) for m in measurements)
            made[page] = Certificate(suite["variant"], ordered, complete, tuple(suite["doc_gaps"]))
        return made

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was measured. A `--case` that no check had is a usage error, and so is a folder that cannot be written."""
        try:
            self.written = [*self._write(self.certificates), *self._write_whole()]
        except OSError as error:
            self.written = [f"ERROR: measurements and pages were not written: {error}"]
        failed = self._unknown_case() or any(line.startswith("ERROR") for line in self.written)
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the verdict tables, and where the pages are."""
        if unknown := self._unknown_case():
            terminalreporter.write_line(f"ERROR: no selected check has a case with id {unknown}", red=True)
        if self.certificates or self.whole:
            terminalreporter.section("verdicts")
        for certificate in self.certificates.values():
            terminalreporter.write_line(f"{certificate.table}\n")
        for check, measurements in self._sheets():
            from conformance.terminal import model_table

            terminalreporter.write_line(f"{model_table(f'whole models: {check}', measurements)}\n")
        for line in self.written:
            terminalreporter.write_line(line, red=line.startswith("ERROR"))

    def _write(self, certificates: dict[Page, "Certificate"]) -> Iterator[str]:
        """Write this project's measurements, and the pages of others; yields what was done."""
        from conformance import run_folder

        root = Path(self.config.rootpath)
        if own := [certificate for (folder, _), certificate in certificates.items() if not folder]:
            folder = root / self._folder()
            run_folder.write(folder, own)
            yield f"measurements and pages: {folder}"
        for (theirs, name), certificate in certificates.items():
            if theirs and certificate.complete:
                from conformance.report import foreign

                yield f"page and badge: {foreign.write(root / theirs, name, certificate, run_folder.machine())}"
            elif theirs:
                yield f"{name}: no page of a narrowed run"

    def _write_whole(self) -> Iterator[str]:
        """Write what was measured of whole models."""
        from conformance import run_folder
        from conformance.whole import results

        folder = Path(self.config.rootpath) / self._folder()
        for check, cells in sorted(self.whole.items()):
            run_folder.prepare(folder)
            results.write(folder, check, self.whole_sizes[check], run_folder.machine(), cells)
        if self.whole:
            yield f"measurements of whole models: {folder / results.RUN}"

    def _sheets(self) -> Iterator[tuple[str, list[Measurement]]]:
        """Each check of whole models with its measurements, in the same order whatever order the tests ran in."""
        for check, cells in sorted(self.whole.items()):
            yield check, [m for _, measurements in sorted(cells.items()) for m in measurements]

    def _folder(self) -> str:
        """Where this project's measurements go: those of another release are not mixed with those that pages are made of."""
        asked: str | None = self.config.getoption("--conformance-dir")
        other = f".conformance/peft-{metadata.version('peft')}" if self.config.getoption("--peft") else ".conformance"
        return asked or other

    def _unknown_case(self) -> str | None:
        case: str | None = self.config.getoption("--case")
        return None if self.cells or self.whole else case
