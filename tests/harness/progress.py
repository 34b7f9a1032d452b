"""`--progress`: how far a run is, how long it will still take, each failure at once, and what is slow without a mark.

It takes the place of pytest's dots. With workers it speaks for all of them, in the process that the person started.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOW_S = 20
"""A test that takes longer has the mark `slow`, with its reason."""
STEPS = 20
"""Lines for a whole run where no terminal can write over its last line."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--progress", action="store_true", help="say how far the run is, and how long it will still take")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--progress") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "progress")


class Progress:
    """Counts finished tests and reports on them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.monotonic()
        self._total = self._done = self._failed = self._step = 0
        self._seconds: dict[str, float] = {}
        self._unmarked: set[str] = set()
        self._overwrites = sys.stdout.isatty()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self._begin(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        if not self._total:
            self._begin(len(ids))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """The same categories as ever, without a letter."""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        if report.skipped and not hasattr(report, "wasxfail"):
            return "skipped", "", ""
        if report.passed and report.when == "call" and not hasattr(report, "wasxfail"):
            return "passed", "", ""
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "setup":  # what is made once for the run is made in some test's setup
            self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        if self._seconds.get(report.nodeid, 0) > SLOW_S and "slow" not in report.keywords:
            self._unmarked.add(report.nodeid)
        if report.failed:
            self._failed += 1
            self._write(f"FAILED {report.nodeid} ({report.when}): {_cause(report)}")
        if report.when == "teardown":
            self._done += 1
            self._show()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for name in sorted(self._unmarked):
            terminalreporter.write_line(
                f"{name} took {self._seconds[name]:.0f} s: over {SLOW_S} s a test has the mark slow, with its reason"
            )

    def _begin(self, total: int) -> None:
        self._total, self._began = total, time.monotonic()
        workers = self._config.getoption("numprocesses", None) or 1
        seed = self._config.getoption("randomly_seed", None)
        self._write(f"{total:,} tests, {workers} at a time, in the order of --randomly-seed={seed}")

    def _show(self) -> None:
        step = self._done * STEPS // max(self._total, 1)
        if self._overwrites:
            sys.stdout.write(f"\r\x1b[2K{self._line()}" + ("\n" if self._done == self._total else ""))
            sys.stdout.flush()
        elif step > self._step:
            self._write(self._line())
        self._step = step

    def _line(self) -> str:
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        failed = f", {self._failed} failed" if self._failed else ""
        when = f"about {left // 60:.0f} min {left % 60:02.0f} s to go" if self._done < self._total else "all done"
        return f"{self._done / self._total:4.0%}  {self._done:,} of {self._total:,}{failed}, {when}"

    def _write(self, line: str) -> None:
        start = "\r\x1b[2K" if self._overwrites else ""
        sys.stdout.write(f"{start}{line}\n")
        sys.stdout.flush()


def _cause(report: pytest.TestReport) -> str:
    """The first line of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return str(text).strip().partition("\n")[0][:200]
