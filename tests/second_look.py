"""A pytest plugin: a test that failed while the machine stood still is run once more, and the report says so.

Many tests give something a time, as what they test is about time: a deadline, a lease, a grace. They wait for
conditions and leave room, but a machine that lends its processors to others may stand still for longer than any room,
and so may a process that collects its garbage. A thread that sleeps for a moment, again and again, knows by how much it
overslept. A failure beside which it slept well counts at once; one beside which it did not counts if it comes again.
"""

from __future__ import annotations

import threading
import time

import pytest
from _pytest.runner import runtestprotocol

__all__ = ["SecondLook"]

_STOOD_STILL_SECONDS = 0.01
_NAP_SECONDS = 0.005
_PROPERTY = "second look"  # travels in the reports of tests, between processes, too


class SecondLook:
    """The plugin."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._notes: list[str] = []
        threading.Thread(target=self._sleep, daemon=True, name="second look").start()

    def _sleep(self) -> None:
        while True:
            began = time.monotonic()
            time.sleep(_NAP_SECONDS)
            self._worst = max(self._worst, time.monotonic() - began - _NAP_SECONDS)

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """In place of pytest's own."""
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        told = list(item.user_properties)
        self._worst = 0.0
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        overslept = self._worst
        if overslept > _STOOD_STILL_SECONDS and any(report.failed for report in reports):
            where = next(report.when for report in reports if report.failed)
            note = f"{item.nodeid} ({where}): the machine stood still for {overslept:.2f} s"
            item.user_properties = [*told, (_PROPERTY, note)]
            item.session._setupstate.teardown_exact(None)  # what a module shares may be what went wrong
            item._initrequest()
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._notes += [note for name, note in report.user_properties if name == _PROPERTY]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._notes:
            terminalreporter.section("run a second time")
            for note in self._notes:
                terminalreporter.line(note)
