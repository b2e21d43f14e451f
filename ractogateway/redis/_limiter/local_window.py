"""The rate limiter of one process, for the time in which Redis is down: exact sliding windows in memory.

The arithmetic is that of the scripts (``scripts/sliding_window.lua``): a log of (stamp, cumulative tokens) per key, in
whole milliseconds, stamps rounded up and expiry rounded down, so that no window ever holds more than its limit.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from ractogateway._checks import milliseconds
from ractogateway._forking import renewed_after_fork

__all__ = ["LocalBudget", "LocalDecision", "LocalSlidingWindow"]

_Entry = tuple[int, int]
_stamp_of = itemgetter(0)
_total_of = itemgetter(1)


class LocalBudget(NamedTuple):
    """One budget that an operation must fit into: ``cost`` of at most ``limit`` in any window."""

    key: bytes | str
    cost: int
    limit: int
    window_seconds: float


class LocalDecision(NamedTuple):
    """``retry_after_seconds`` is ``math.inf`` where the cost can never pass; see `RateLimitDecision`."""

    allowed: bool
    remaining: int
    retry_after_seconds: float
    reset_after_seconds: float


class LocalSlidingWindow:
    """Token budgets by key, in this process alone. Any thread may call; a call holds one lock for microseconds.

    Memory is bounded. A log holds at most ``max_entries``: when it is full, neighbours merge into the later one, which
    is too strict by less than 3 % of the window, never too lenient. Keys that have been idle for a window are dropped
    as new ones come; when ``max_keys`` are in use, a further key is refused until one of them is idle.

    Args:
        clock: seconds, never going back.
        max_keys: users with tokens in their window at one time.
        max_entries: at least 4; a user with fewer charges in a window is served exact to the millisecond.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_keys: int = 100_000, max_entries: int = 64
    ) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._max_entries = max_entries
        self._logs: OrderedDict[bytes | str, _Log] = OrderedDict()
        self._full_until_ms = 0
        self._lock = threading.Lock()
        renewed_after_fork(self)

    def consume(
        self, key: bytes | str, cost: int, limit: int, window_seconds: float, *, charge: bool = True
    ) -> LocalDecision:
        """Charge ``cost`` tokens if they fit into ``limit`` tokens a window; with ``charge=False`` only look.

        The arguments are taken as they are: whoever calls has checked them.
        """
        (decision,) = self.consume_all((LocalBudget(key, cost, limit, window_seconds),), charge=charge)
        return decision

    def consume_all(self, budgets: Sequence[LocalBudget], *, charge: bool = True) -> list[LocalDecision]:
        """Charge an operation to several budgets, of different keys, if it fits into all of them; what each says."""
        with self._lock:
            now_us = round(self._clock() * 1e6)
            decisions = [self._decide(budget, now_us // 1000) for budget in budgets]
            if charge and all(decision.allowed for decision in decisions):
                return [
                    self._charge(budget, decision, now_us) for budget, decision in zip(budgets, decisions, strict=True)
                ]
            return decisions

    def forget(self, key: bytes | str) -> None:
        """Give the key its whole budget back."""
        with self._lock:
            self._logs.pop(key, None)
            self._full_until_ms = 0

    def __len__(self) -> int:
        """Keys in memory."""
        return len(self._logs)

    def renew_after_fork(self) -> None:
        # A thread of the parent may have been anywhere under the old lock. What it left is usable: every change of the
        # state is one operation of a built-in container, between which the log is valid.
        self._lock = threading.Lock()

    def _decide(self, budget: LocalBudget, now: int) -> LocalDecision:
        if budget.cost <= budget.limit and self._is_full_for(budget.key, now):
            wait = (self._full_until_ms - now) / 1000
            return LocalDecision(allowed=False, remaining=0, retry_after_seconds=wait, reset_after_seconds=wait)
        log = self._logs.get(budget.key) or _Log()
        return log.decide(now, budget.cost, budget.limit, milliseconds(budget.window_seconds))

    def _charge(self, budget: LocalBudget, decision: LocalDecision, now_us: int) -> LocalDecision:
        now, window_ms = now_us // 1000, milliseconds(budget.window_seconds)
        log = self._logs.get(budget.key)
        if log is None:
            self._drop_idle(now, most=2)
            log = self._logs[budget.key] = _Log()
        stamp = log.charge(-(-now_us // 1000), budget.cost, window_ms, self._max_entries)
        return LocalDecision(
            allowed=True,
            remaining=decision.remaining - budget.cost,
            retry_after_seconds=0.0,
            reset_after_seconds=(stamp + window_ms - now) / 1000,
        )

    def _is_full_for(self, key: bytes | str, now: int) -> bool:
        """Whether this key is new and there is no room for it; sets when there will be."""
        if len(self._logs) < self._max_keys or key in self._logs:
            return False
        if now >= self._full_until_ms:
            self._drop_idle(now, most=len(self._logs))
            if len(self._logs) < self._max_keys:
                return False
            # Not looked for again before then: with many refusals, each would walk through all keys.
            self._full_until_ms = min(log.idle_at_ms for log in self._logs.values())
        return True

    def _drop_idle(self, now: int, *, most: int) -> None:
        """Look at some keys, in turn at all: two for each new key keep the idle ones fewer than the others."""
        for _ in range(min(most, len(self._logs))):
            key, log = next(iter(self._logs.items()))
            if log.idle_at_ms <= now:
                del self._logs[key]
            else:
                self._logs.move_to_end(key)


class _Log:
    """The charges of one key. ``entries[0]`` is not one: its total is what had been charged before the others."""

    __slots__ = ("entries", "window_ms")

    def __init__(self) -> None:
        self.entries: list[_Entry] = [(0, 0)]
        self.window_ms = 0  # the longest that was asked for

    @property
    def idle_at_ms(self) -> int:
        return self.entries[-1][0] + self.window_ms

    def decide(self, now: int, cost: int, limit: int, window_ms: int) -> LocalDecision:
        """Whether the cost fits now; nothing is charged."""
        entries = self.entries
        first = self._first_after(now - window_ms)
        total = entries[-1][1]
        room = limit - (total - entries[first - 1][1])
        retry_after = 0.0
        if cost > limit:
            retry_after = math.inf
        elif cost > room:
            leaving = bisect_left(entries, total - (limit - cost), lo=first, key=_total_of)
            retry_after = (entries[leaving][0] + window_ms - now) / 1000
        reset_after = (entries[-1][0] + window_ms - now) / 1000 if first < len(entries) else 0.0
        return LocalDecision(cost <= room, max(0, room), retry_after, reset_after)

    def charge(self, now_up: int, cost: int, window_ms: int, max_entries: int) -> int:
        """Add tokens; the stamp they got."""
        entries = self.entries
        self.window_ms = max(self.window_ms, window_ms)
        dead = self._first_after(now_up - 1 - self.window_ms) - 1
        if dead:
            entries[: dead + 1] = [(0, entries[dead][1])]
        last, total = entries[-1]
        stamp = max(now_up, last)
        if len(entries) > 1 and stamp == last:
            entries[-1] = (stamp, total + cost)
            return stamp
        if len(entries) > max_entries:
            entries[1:] = self._merged(max_entries)
        entries.append((stamp, total + cost))
        return stamp

    def _merged(self, max_entries: int) -> list[_Entry]:
        """Fewer than ``max_entries``: the latest entry of each cell of time speaks for all of its cell."""
        cell_ms = -(-self.window_ms * 4 // (3 * max_entries))
        while True:
            # A dict keeps the last value of a key, and the order in which keys came first.
            latest = {entry[0] // cell_ms: entry for entry in self.entries[1:]}
            if len(latest) < max_entries:
                return list(latest.values())
            cell_ms *= 2

    def _first_after(self, stamp: int) -> int:
        return bisect_right(self.entries, stamp, lo=1, key=_stamp_of)
