"""Which tests prove which cells of the fault matrix, and with what figures: the source of FAULTS.md.

A test says so by a marker, and hands in what it measured by a fixture:

    @pytest.mark.cell("reply lost", "limiter")
    def test_…(figures):
        …
        figures(calls=100, double=len(double))

A test that has a parameter ``face`` (or ``make``) proves the column named with an awaiting one, and the column of the
blocking faces with a blocking one. Where a parameter is the fault, it carries the marker ``cell(fault)``, and the test
the marker ``column("limiter")``.

The rows and columns are those of `fault_matrix`. With ``--faults-report=PATH`` the tests of ``tests/faults`` run in
their long form, and what they and all others so marked have shown is written to that file when the run has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_matrix import COLUMNS, ROWS, Proof, markdown

__all__ = ["FaultCells", "Figures", "cells_of", "figures"]

_CELLS, _FIGURES = "fault cells", "fault figures"  # travel in the reports of tests, between processes, too

Figures = Callable[..., None]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Hand in what this test measured: for the column named first, or for all that the test is marked with."""

    def hand_in(column: str | None = None, **measured: Any) -> None:
        for each in [column] if column else columns_of(request.node):
            request.node.user_properties.append((_FIGURES, [each, measured]))

    return hand_in


def cells_of(item: pytest.Item) -> list[tuple[str, tuple[str, ...]]]:
    """The rows that a test is about, each with the columns that it proves."""
    cells = [(mark.args[0], _columns(item, mark)) for mark in item.iter_markers("cell")]
    for fault, columns in cells:
        assert fault in ROWS, f"{item.nodeid}: the matrix has no row {fault!r}"
        assert columns, f"{item.nodeid}: no column"
        assert set(columns) <= set(COLUMNS), f"{item.nodeid}: {columns}"
    return cells


def columns_of(item: pytest.Item) -> list[str]:
    return sorted({column for _, columns in cells_of(item) for column in columns})


def _columns(item: pytest.Item, mark: pytest.Mark) -> tuple[str, ...]:
    """As the marker says; with a blocking face, that column's."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    face = parameters.get("face", parameters.get("make", ""))
    if str(face).startswith("blocking"):
        return ("blocking",)
    return mark.args[1:] or tuple(column for own in item.iter_markers("column") for column in own.args)


class FaultCells:
    """The plugin."""

    def __init__(self, report: Path | None) -> None:
        self._report = report
        self._proofs: list[Proof] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "cell(fault, *columns): proves these cells of the fault matrix")
        config.addinivalue_line("markers", "column(*columns): those of a cell whose marker names none")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            item.user_properties += [(_CELLS, [fault, list(columns)]) for fault, columns in cells_of(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        said = report.user_properties
        for fault, columns in (value for name, value in said if name == _CELLS):
            for column in columns:
                handed_in = [value[1] for name, value in said if name == _FIGURES and value[0] == column]
                self._proofs.append(Proof(fault, column, report.nodeid, report.outcome, handed_in))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._report is not None and self._proofs and not hasattr(session.config, "workerinput"):
            header = session.config.hook.pytest_report_header(config=session.config, start_path=session.startpath)
            self._report.write_text(markdown(self._proofs, _flat(header)), "utf-8")


def _flat(lines: list[Any]) -> list[str]:
    return [each for line in lines for each in (line if isinstance(line, list) else [line])]
