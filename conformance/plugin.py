"""The pytest plugin: options and markers, and what becomes of the measurements of a run. Imports no torch."""

import re
from pathlib import Path
from typing import Any

import pytest

from conformance.variants import check_known, known
from conformance.verdict import Measurement

# Of a test's report: ((place in the suite, cells of the suite), measurements as plain dicts), which xdist can carry.
PROPERTY = "conformance cell"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--variant, --case and --conformance-dir."""
    group = parser.getgroup("conformance", "conformance of adapter methods")
    group.addoption(
        "--variant", action="append", default=[], metavar="NAME", help=f"run this variant only; known: {', '.join(known())}"
    )
    group.addoption("--case", metavar="ID", help="run the one case of this id, as failures print it")
    group.addoption("--conformance-dir", metavar="DIR", default=".conformance", help="where a run's measurements and pages go")


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
    """`--variant` keeps the tests of these variants only."""
    wanted = config.getoption("--variant")
    if not wanted:
        return
    kept = [item for item in items if (mark := item.get_closest_marker("variant")) and mark.kwargs["name"] in wanted]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


class Collector:
    """Gathers the measurements of a run, on the process that reports it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.cells: list[tuple[int, list[Measurement]]] = []
        self.sizes: dict[str, int] = {}  # variant → how many cells its suite has

    @property
    def measurements(self) -> list[Measurement]:
        """In the same order whatever order the tests ran in."""
        ordered = sorted(self.cells, key=lambda cell: (cell[1][0].variant, cell[0]))
        return [m for _, measurements in ordered for m in measurements]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take them from the call's report, wherever the test ran."""
        if report.when == "call":
            found: list[Any] = [value for name, value in report.user_properties if name == PROPERTY]
            for (place, size), values in found:
                self.cells.append((place, [Measurement.from_dict(m) for m in values]))
                self.sizes[self.cells[-1][1][0].variant] = size

    def narrowed(self) -> set[str]:
        """The variants that did not run as a whole."""
        ran = [measurements[0].variant for _, measurements in self.cells]
        return {v for v, size in self.sizes.items() if ran.count(v) < size or self.config.getoption("--case")}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A `--case` that no check had is a usage error."""
        case = self.config.getoption("--case")
        if case and not self._has(case) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the verdict tables and write the run's folder."""
        case = self.config.getoption("--case")
        if case and not self._has(case):
            terminalreporter.write_line(f"ERROR: no selected check has a case with id {case}", red=True)
        measurements = self.measurements
        if not measurements:
            return
        from conformance.run_folder import write
        from conformance.terminal import verdict_table

        terminalreporter.section("verdicts")
        for variant in dict.fromkeys(m.variant for m in measurements):
            own = [m for m in measurements if m.variant == variant]
            terminalreporter.write_line(verdict_table(variant, own, complete=variant not in self.narrowed()))
            terminalreporter.write_line("")
        folder = Path(self.config.rootpath) / self.config.getoption("--conformance-dir")
        try:
            write(folder, measurements, self.narrowed())
            terminalreporter.write_line(f"measurements and pages: {folder}")
        except OSError as error:
            terminalreporter.write_line(f"measurements and pages were not written: {error}", red=True)

    def _has(self, case: str) -> bool:
        return any(m.case_id == case for m in self.measurements)
