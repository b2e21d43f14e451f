"""What is taken down while a fault rages: what callers lived through, how late the machine was, what the log said."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ractogateway.errors import RactoGatewayError, StoreUnavailable

__all__ = ["GRACE_SECONDS", "Book", "Lines", "Naps", "Tally"]

GRACE_SECONDS = 0.05
"""So late after its deadline a call may end."""


@dataclass
class Book:
    """What the callers of one tool by one face have to tell.

    Attributes:
        calls: how many they made.
        failed: calls that ended as an outage, by class.
        wrong: replies that nobody may get, exceptions that nobody should see.
        lost: what was acknowledged, must have been kept, and is gone.
        double: what was done once more than it was asked for.
        late: seconds past its deadline of the latest call; 0.0 where all were in time.
        suspects: calls that were more than `GRACE_SECONDS` late: when they began and ended, and how late they were.
        overdue: those of them whose lateness is not that of the machine at the time.
        ran_out: calls that used up their time, as in `suspects`, and how late they were.
        overrun: what the middle one of them was late by beyond the lateness of the machine.
        outage: the longest time that a caller was without success.
        served_again: seconds from the end of the fault until each caller had its first success.
        degraded: decisions without Redis.
        read_meanwhile: reads that succeeded while the fault lasted.
    """

    calls: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[object] = field(default_factory=list)
    lost: list[object] = field(default_factory=list)
    double: list[object] = field(default_factory=list)
    late: float = 0.0
    suspects: list[tuple[float, float, float]] = field(default_factory=list)
    overdue: int = 0
    ran_out: list[tuple[float, float, float]] = field(default_factory=list)
    overrun: float = 0.0
    outage: float = 0.0
    served_again: float = 0.0
    degraded: int = 0
    read_meanwhile: int = 0

    def figures(self, overslept: float) -> dict[str, Any]:
        """For `fault_cells.figures`."""
        return {
            "calls": self.calls,
            "failed": self.failed.total(),
            "wrong": len(self.wrong),
            "lost": len(self.lost),
            "double": len(self.double),
            "late_ms": 1000 * self.late,
            "overslept_ms": 1000 * overslept,
            "overdue": self.overdue,
            "served_again_s": self.served_again,
            "outage_s": self.outage,
        }


class Tally:
    """What a test's own calls came to: every figure that it hands in was counted here. Safe for threads."""

    def __init__(self) -> None:
        self.calls = self.failed = 0
        self.wrong: list[object] = []
        self.lost: list[object] | None = None
        self.double: list[object] | None = None
        self._lock = threading.Lock()

    def made(self, calls: int = 1) -> None:
        """So many calls returned, and nothing that could be wrong."""
        with self._lock:
            self.calls += calls

    def saw(self, found: object, *right: object) -> None:
        """A call returned this, where these would be right."""
        with self._lock:
            self.calls += 1
            if found not in right:
                self.wrong.append((found, *right))

    def refused(self, call: Callable[[], object], kind: type[RactoGatewayError]) -> Any:
        """The error of a call that must raise one of this kind."""
        error: RactoGatewayError | None = None
        try:
            call()
        except RactoGatewayError as raised:
            error = raised
        with self._lock:
            self.calls += 1
            self.failed += isinstance(error, StoreUnavailable)
            if not isinstance(error, kind):
                self.wrong.append((error, kind))
        return error

    def kept(self, found: Sequence[Any], said: Sequence[Any], *, in_order: bool = False) -> None:
        """What one read shows, where this was acknowledged: each once."""
        there, told = Counter(found), Counter(said)
        lost, more = [*(told - there).elements()], [*(there - told).elements()]
        with self._lock:
            self.calls += 1
            self.lost = [*(self.lost or ()), *lost]
            self.double = [*(self.double or ()), *(each for each in more if each in told)]
            self.wrong += [each for each in more if each not in told]
            if in_order and not lost and not more and list(found) != list(said):
                self.wrong.append(("out of order", found, said))

    def figures(self) -> dict[str, Any]:
        """For `fault_cells.figures`; of what was not looked at, none."""
        counted = {"lost": self.lost, "double": self.double}
        seen = {name: len(found) for name, found in counted.items() if found is not None}
        return {"calls": self.calls, "failed": self.failed, "wrong": len(self.wrong), **seen}

    def judge(self, figures: Callable[..., None], *columns: str, **more: Any) -> None:
        """Hand in what was counted, right or not; then nothing may be wrong."""
        for column in columns or (None,):
            figures(column, **self.figures(), **more)
        judged = (self.wrong, self.lost or [], self.double or [])
        assert judged == ([], [], []), judged


class Naps:
    """How late this machine woke a thread that sleeps, moment by moment, inside its ``with``; see `probing.Watch`."""

    _SECONDS, _THREADS = 0.002, 3

    def __init__(self) -> None:
        self.worst = 0.0
        self._late: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._sleeper = threading.Thread(target=self._sleep, daemon=True)

    def _sleep(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            time.sleep(self._SECONDS)
            now = time.monotonic()
            if now - began > 2 * self._SECONDS:
                self._late.append((now, now - began - self._SECONDS))

    def explain(self, began: float, ended: float, late: float) -> bool:
        """Whether a call was late because the machine was: between a deadline and a caller are up to three threads."""
        return self.excess(began, ended, late) <= GRACE_SECONDS

    def excess(self, began: float, ended: float, late: float) -> float:
        """What is left of the lateness of a call."""
        worst = max((by for at, by in self._late if began <= at <= ended + by), default=0.0)
        return late - self._THREADS * worst

    def __enter__(self) -> Self:
        self._sleeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._sleeper.join()
        self.worst = max((by for _, by in self._late), default=0.0)


class Lines(logging.Handler):
    """Takes down what our loggers say, as (level, line, time), inside its ``with``."""

    def __init__(self, lines: list[tuple[str, str, float]]) -> None:
        super().__init__()
        self._lines = lines
        self._logger = logging.getLogger("ractogateway")
        self._level = self._logger.level

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "ractogateway.redis" or record.levelno >= logging.WARNING:
            self._lines.append((record.levelname, record.getMessage(), time.monotonic()))

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
