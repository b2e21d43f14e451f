"""The matrix is complete: each row is proven for each column, by tests that exist; and FAULTS.md is of this matrix."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import fault_cells
import fault_matrix
import pytest
from books import Tally
from fault_matrix import COLUMNS, ROWS, Proof, markdown
from injection import FAULTS

from ractogateway.errors import NotSent, StoreRefused, StoreUnavailable

ROOT = Path(__file__).parents[2]
LISTING = """
import pytest, sys
from fault_cells import cells_of

class List:
    def pytest_collection_finish(self, session):
        for item in session.items:
            for fault, columns in cells_of(item):
                print("CELL", fault, *columns, sep="|")

sys.exit(pytest.main(["--collect-only", "-q", "-m", "cell", *sys.argv[1:]], plugins=[List()]))
"""


def test_every_cell_has_a_test():
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.cell(" in path.read_text("utf-8")]
    told = subprocess.run(
        [sys.executable, "-c", LISTING, *files],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
    cells = {tuple(line.split("|")[1:]) for line in told.stdout.splitlines() if line.startswith("CELL|")}
    proven = {(fault, column) for fault, *columns in cells for column in columns}
    assert {(fault, column) for fault in ROWS for column in COLUMNS} - proven == set()


def test_every_fault_is_of_a_row():
    assert {fault.row for fault in FAULTS.values()} <= set(ROWS)
    assert len({fault.name for fault in FAULTS.values()}) == len(FAULTS)


def test_what_the_report_says_of_a_cell():
    def proof(column: str, outcome: str = "passed", *figures: dict) -> Proof:
        return Proof("freeze", column, f"tests/x.py::test_{column}[p]", outcome, list(figures))

    text = markdown(
        [
            proof("cache", "passed", {"calls": 1000, "late_ms": 3.21, "wrong": 0}),
            proof("cache", "passed", {"calls": 500, "late_ms": 12.0, "wrong": 0, "note": "a note"}),
            proof("limiter", "failed"),
            proof("memory", "skipped"),
        ],
        ["servers: valkey9 9.1"],
    )
    assert "| [freeze](#freeze) | held, 2 runs | **1 of 1 failed** | skipped | **no proof** |" in text
    assert (
        "| cache | 1,500 calls; 0 wrong; 12.0 ms past the deadline at most; a note | `tests/x.py::test_cache` |" in text
    )
    assert "Servers: valkey9 9.1." in text


def test_a_cell_whose_calls_were_late_says_so():
    late, in_time = ({"calls": 1000, "overdue": overdue} for overdue in (2, 0))
    text = markdown([Proof("freeze", "cache", "tests/x.py::test", "passed", [late, in_time])], [])
    assert "| [freeze](#freeze) | held, 1 runs, 2 of 2,000 calls late |" in text


def test_figures_are_counted():
    """None of them is a number that somebody wrote down."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "figures":
                for figure in call.keywords:
                    if figure.arg != "note":
                        nodes = list(ast.walk(figure.value))
                        assert any(isinstance(node, ast.Name) for node in nodes), f"{path}:{call.lineno} {figure.arg}"


def _raise(error: Exception) -> None:
    raise error


def test_a_tally_tells_of_everything_that_is_not_right():
    tally, handed_in = Tally(), []
    tally.saw("right", "right")
    tally.saw("wrong", "right", None)
    tally.refused(lambda: _raise(NotSent("")), StoreUnavailable)
    tally.refused(lambda: _raise(NotSent("")), StoreRefused)
    tally.refused(lambda: None, StoreRefused)
    assert "lost" not in tally.figures(), "nobody looked"
    tally.kept(["a", "a", "of others"], ["a", "b"])
    tally.kept(["b", "a"], ["a", "b"], in_order=True)
    with pytest.raises(AssertionError):
        tally.judge(lambda _, **figures: handed_in.append(figures))
    assert handed_in == [{"calls": 7, "failed": 2, "wrong": 5, "lost": 1, "double": 1}]


def test_the_page_is_of_this_matrix():
    page = (ROOT / "FAULTS.md").read_text("utf-8")
    for fault, row in ROWS.items():
        assert f"## {fault_matrix._title(fault)}\n\nInjected: {row.injected}." in page
    assert "no proof" not in page
    assert "failed**" not in page


@pytest.mark.parametrize(
    "mark", [pytest.mark.cell("no such row", "cache"), pytest.mark.cell("freeze", "no such column")]
)
def test_a_marker_that_names_no_cell_is_an_error(request, mark):
    item = request.node
    before = list(item.own_markers)
    item.add_marker(mark)
    with pytest.raises(AssertionError):
        fault_cells.cells_of(item)
    item.own_markers[:] = before
