"""What the rate limiter's scripts must decide: an exact log in Python, and the measure of the guarantee.

`ExactLog` keeps every charge and merges none. `worst_window` knows nothing of logs, stamps or rounding: it looks at
when tokens were charged.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

AHEAD_MS = 2000
"""Stamps further ahead of the clock than this are taken for now."""


class Decision(NamedTuple):
    """The scripts' reply; ``retry_after_ms`` is -1 where the cost can never pass."""

    admitted: bool
    remaining: int
    retry_after_ms: int
    reset_after_ms: int


class ExactLog:
    """The charges of one user: stamps in ms, sorted, and the tokens charged up to and including each."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.totals: list[int] = [0]
        self.operations: set[object] = set()

    def peek(self, now_us: int, limit: int, window_ms: int, cost: int) -> Decision:
        now, stamps = now_us // 1000, self._read(now_us)
        first = bisect_right(stamps, now - window_ms)
        room = limit - (self.totals[-1] - self.totals[first])
        reset_after = stamps[-1] + window_ms - now if first < len(stamps) else 0
        retry_after = 0
        if cost > limit:
            retry_after = -1
        elif cost > room:
            leaving = bisect_left(self.totals, self.totals[first] + cost - room)
            retry_after = stamps[leaving - 1] + window_ms - now
        return Decision(cost <= room, max(0, room), retry_after, reset_after)

    def consume(self, now_us: int, limit: int, window_ms: int, cost: int, operation: object) -> Decision:
        decision = self.peek(now_us, limit, window_ms, cost)
        if operation in self.operations:
            return Decision(True, decision.remaining, 0, decision.reset_after_ms)
        self.restamp(now_us)
        if not decision.admitted:
            return decision
        self.operations.add(operation)
        stamp = self.charge(now_us, cost)
        return Decision(True, decision.remaining - cost, 0, stamp + window_ms - now_us // 1000)

    def charge(self, now_us: int, cost: int) -> int:
        """Charge without asking; the stamp."""
        self.restamp(now_us)
        stamp = max(_up(now_us), *self.stamps[-1:], 0)
        self.stamps.append(stamp)
        self.totals.append(self.totals[-1] + cost)
        return stamp

    def restamp(self, now_us: int) -> None:
        """Store stamps as they are read: those of a clock that has stepped far back become now."""
        self.stamps = self._read(now_us)

    def _read(self, now_us: int) -> list[int]:
        if self.stamps and self.stamps[-1] > _up(now_us) + AHEAD_MS:
            return [min(stamp, _up(now_us)) for stamp in self.stamps]
        return self.stamps


def worst_window(charges: Iterable[tuple[int, int]], window_ms: int) -> int:
    """The most tokens charged in any span of ``window_ms``, one of its ends excluded. Charges are (time µs, tokens)."""
    ordered = sorted(charges)
    worst = live = oldest = 0
    for time_us, tokens in ordered:
        live += tokens
        while time_us - ordered[oldest][0] >= window_ms * 1000:
            live -= ordered[oldest][1]
            oldest += 1
        worst = max(worst, live)
    return worst


def _up(now_us: int) -> int:
    return -(-now_us // 1000)
