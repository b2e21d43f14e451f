"""What a cache object counts, and what it has not told the fleet yet."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Final

from ractogateway._forking import renewed_after_fork
from ractogateway.cache.protocol import CacheCounters

_TELL_SECONDS: Final = 30.0
"""Between two messages to the fleet, about; one command each."""


def _next_time() -> float:
    # Processes that were started together do not tell together.
    return time.monotonic() + _TELL_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


class Counts:
    """Counters of one cache object, shared by its blocking and its async face. Safe for threads."""

    def __init__(self) -> None:
        self._numbers = dict.fromkeys(CacheCounters.model_fields, 0)
        self._told = dict(self._numbers)
        self.flaws: Counter[str] = Counter()
        self._tell_at = _next_time()
        self._lock = threading.RLock()  # reentrant: a signal handler may count
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: a lock of its own. What the parent has not told yet is told by the parent."""
        self._lock = threading.RLock()
        self._told = dict(self._numbers)

    def add(self, name: str, saved_tokens: int = 0) -> None:
        """One more of these."""
        numbers = self._numbers
        with self._lock:
            numbers[name] += 1
            numbers["saved_tokens"] += saved_tokens

    def add_flaw(self, flaw: str) -> None:
        """A stored value that could not be read, and why."""
        with self._lock:
            self._numbers["corrupt"] += 1
            self.flaws[flaw] += 1

    def read(self) -> CacheCounters:
        """The numbers now."""
        with self._lock:
            return CacheCounters(**self._numbers)

    @property
    def due(self) -> bool:
        """Whether it is time to tell the fleet."""
        return time.monotonic() >= self._tell_at

    def take_untold(self) -> dict[str, int]:
        """What the fleet does not know yet; from now on it counts as told."""
        with self._lock:
            self._tell_at = _next_time()
            news = {name: number - self._told[name] for name, number in self._numbers.items()}
            self._told = dict(self._numbers)
        return {name: number for name, number in news.items() if number}

    def put_back(self, untold: dict[str, int]) -> None:
        """The fleet could not be told."""
        with self._lock:
            for name, number in untold.items():
                self._told[name] -= number
