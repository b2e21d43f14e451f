"""What is shown while the demo runs."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from ractogateway._demo.checks import check_all
from ractogateway._demo.records import Log
from ractogateway._demo.report import Progress, render


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")


def shown(stream: io.StringIO) -> str:
    progress = Progress(stream)
    for answered in range(1, 41):
        progress.show(Log(requests=40, answered=answered))
    progress.close()
    return stream.getvalue()


def test_elsewhere_progress_is_four_lines():
    assert shown(io.StringIO()).splitlines() == [f"{n} of 40 requests, 0 from the cache" for n in (10, 20, 30, 40)]


def test_on_a_terminal_progress_is_one_line_that_goes_away(narrow):
    text = shown(Terminal())
    assert "\n" not in text
    first, *bars, last = text.split("\r\033[K")
    assert (first, last) == ("", "")
    assert len(bars) == 40
    assert bars[19].startswith("[###############...............] 20 of 40 reque")
    assert max(len(bar) for bar in bars) < 50


def test_colours_are_for_terminals(small_run):
    evidence = small_run.evidence
    plain = render(evidence, small_run.workload, "a model", check_all(evidence))
    coloured = render(evidence, small_run.workload, "a model", check_all(evidence), colours=True)
    assert "\033[" not in plain
    assert coloured.count("\033[32mkept") == plain.count("  kept  ")


def test_a_busy_machine_is_named(small_run):
    evidence = small_run.evidence
    late = replace(evidence, log=replace(evidence.log, ended=evidence.log.started + 100))
    assert "slower than the traffic, this machine is busy" in render(late, small_run.workload, "a model", [])
