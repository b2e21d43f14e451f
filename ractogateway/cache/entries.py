"""The entries of an in-process cache: in order of use, each with its own end of life."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from typing import NamedTuple

from ractogateway.messages import LLMResponse

_MAX_STALE_DEADLINES = 64


class Entry(NamedTuple):
    """A stored answer, and until when it is one."""

    response: LLMResponse
    expires_at: float
    serial: int


class Entries:
    """Entries in order of use, and their deadlines in a heap. Not safe for threads.

    Every method but `expire` takes at most logarithmic time on average. What is removed is returned, so that the caller
    chooses when to release it. The deadline of an entry that is replaced or removed early stays behind, is known as
    stale by its serial number, and goes when it reaches the top or when stale ones are the majority.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._by_key: OrderedDict[bytes, Entry] = OrderedDict()
        self._deadlines: list[tuple[float, int, bytes]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def use(self, key: bytes) -> Entry | None:
        """The entry, now the most recently used one, whether or not its time is over."""
        entry = self._by_key.get(key)
        if entry is not None:
            self._by_key.move_to_end(key)
        return entry

    def add(self, key: bytes, response: LLMResponse, *, now: float, expires_at: float) -> Entry | None:
        """Add or replace an entry; the one that had to go for it."""
        dropped = self._by_key.pop(key, None)
        if len(self._by_key) >= self._max_size:
            dropped = self._evict(now)
        self._serial += 1
        self._by_key[key] = Entry(response, expires_at, self._serial)
        if expires_at < math.inf:
            heapq.heappush(self._deadlines, (expires_at, self._serial, key))
        if len(self._deadlines) > 2 * len(self._by_key) + _MAX_STALE_DEADLINES:
            self._deadlines = [(e.expires_at, e.serial, k) for k, e in self._by_key.items() if e.expires_at < math.inf]
            heapq.heapify(self._deadlines)
        return dropped

    def remove(self, key: bytes) -> Entry | None:
        """Remove an entry, if there is one."""
        return self._by_key.pop(key, None)

    def expire(self, now: float) -> list[Entry]:
        """Remove every entry whose time is over."""
        dropped = []
        while (key := self._next_expired(now)) is not None:
            dropped.append(self._by_key.pop(key))
        return dropped

    def _evict(self, now: float) -> Entry:
        expired = self._next_expired(now)
        return self._by_key.popitem(last=False)[1] if expired is None else self._by_key.pop(expired)

    def _next_expired(self, now: float) -> bytes | None:
        """The key of an entry whose time is over, with its deadline taken off the heap."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, serial, key = heapq.heappop(self._deadlines)
            entry = self._by_key.get(key)
            if entry is not None and entry.serial == serial:
                return key
        return None
