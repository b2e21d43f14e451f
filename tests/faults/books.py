"""What is taken down while a fault rages: what callers lived through, how late the machine was, what the log said."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["GRACE_SECONDS", "Book", "Lines", "Naps"]

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
    """Takes down what our loggers say, as (level, line), inside its ``with``."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        super().__init__()
        self._lines = lines
        self._logger = logging.getLogger("ractogateway")
        self._level = self._logger.level

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "ractogateway.redis" or record.levelno >= logging.WARNING:
            self._lines.append((record.levelname, record.getMessage()))

    def __enter__(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
