"""An exact cache in this process: least recently used out first, each entry with its own end of life."""

from __future__ import annotations

import copy
import heapq
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ractogateway._checks import check_tokens, check_ttl
from ractogateway._forking import renewed_after_fork
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.protocol import CacheStats
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import LLMResponse

__all__ = ["ExactMatchCache"]

_MAX_STALE_DEADLINES = 64


class ExactMatchCache:
    """A blocking `ExactCache` for one process, safe to share between threads.

    A hit is a copy, and so is what ``put`` keeps: changing one changes nothing else. ``LLMResponse.raw``, the
    provider's own object, is not kept. ``put`` stores any answer; which ones deserve it is `is_storable`'s question.

    Args:
        max_size: Entries kept at most, at least 1. To make room, an entry whose time is over goes first, then the one
            that was not read or written for the longest time.
        ttl_seconds: How long an entry lives, at least a millisecond; None for as long as there is room.
        clock: A monotonic clock in seconds, for tests.

    Raises:
        InvalidTypeError: An argument has the wrong type.
        InvalidValueError: An argument is out of range.
    """

    def __init__(
        self,
        max_size: int = 1024,
        ttl_seconds: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_size = check_tokens("max_size", max_size)
        self._ttl_seconds = check_ttl("ttl_seconds", ttl_seconds)
        self._clock = clock
        # Held for a few dictionary operations only: keys, copies and the clock's reading are made before or after, and
        # what falls out is released after, because its destructor may be anybody's code.
        self._lock = threading.Lock()
        self._entries = _Entries(self._max_size)
        self._hits = 0
        self._misses = 0
        renewed_after_fork(self)

    def get(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> LLMResponse | None:
        """A copy of the stored answer, marked ``cached``, or None. The arguments are those of `fingerprint`."""
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        now = self._clock()
        with self._lock:
            entry = self._entries.use(key)
            hit = entry is not None and entry.expires_at > now
            if hit:
                self._hits += 1
            else:
                self._misses += 1
                self._entries.remove(key)
        return entry.response.as_hit() if entry is not None and hit else None

    def put(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        response: LLMResponse,
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
    ) -> None:
        """Store a copy of ``response``; ``ttl_seconds`` overrides the cache's own for this entry.

        Raises:
            InvalidTypeError: Also where ``response.parsed`` cannot be copied.
        """
        if not isinstance(response, LLMResponse):
            raise InvalidTypeError(f"response must be an LLMResponse, not {type(response).__name__}")
        own_ttl = check_ttl("ttl_seconds", ttl_seconds)
        ttl = self._ttl_seconds if own_ttl is None else own_ttl
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        stored = _as_stored(response)
        now = self._clock()
        with self._lock:
            dropped = self._entries.add(key, stored, now=now, expires_at=math.inf if ttl is None else now + ttl)
        del dropped

    def invalidate(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """Forget one entry; True if there was one."""
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        now = self._clock()
        with self._lock:
            removed = self._entries.remove(key)
        return removed is not None and removed.expires_at > now

    def clear(self) -> None:
        """Forget all entries. The counters go on."""
        empty = _Entries(self._max_size)
        with self._lock:
            self._entries, dropped = empty, self._entries
        del dropped

    @property
    def stats(self) -> CacheStats:
        """Counters since this cache was made."""
        size, hits, misses = self._count()
        return CacheStats(hits=hits, misses=misses, size=size)

    def __len__(self) -> int:
        return self._count()[0]

    def __bool__(self) -> bool:
        # An empty cache is still a cache: `if exact_cache:` must not skip it.
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={len(self)}, max_size={self._max_size})"

    def _count(self) -> tuple[int, int, int]:
        now = self._clock()
        with self._lock:
            dropped = self._entries.expire(now)
            counts = len(self._entries), self._hits, self._misses
        del dropped
        return counts

    def renew_after_fork(self) -> None:
        """In a forked child: a lock of its own."""
        # The thread that held the lock does not exist in the child, and left its change half made: start empty.
        if self._lock.locked():
            self._entries = _Entries(self._max_size)
        self._lock = threading.Lock()


def _as_stored(response: LLMResponse) -> LLMResponse:
    try:
        return response.as_stored()
    except (TypeError, copy.Error) as error:
        raise InvalidTypeError("response.parsed cannot be copied, so it cannot be cached") from error


class _Entry(NamedTuple):
    response: LLMResponse
    expires_at: float
    serial: int


class _Entries:
    """Entries in order of use, and their deadlines in a heap. Not safe for threads.

    Every method but `expire` takes at most logarithmic time on average. What is removed is returned, so that the caller
    chooses when to release it. The deadline of an entry that is replaced or removed early stays behind, is known as
    stale by its serial number, and goes when it reaches the top or when stale ones are the majority.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._by_key: OrderedDict[bytes, _Entry] = OrderedDict()
        self._deadlines: list[tuple[float, int, bytes]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def use(self, key: bytes) -> _Entry | None:
        """The entry, now the most recently used one, whether or not its time is over."""
        entry = self._by_key.get(key)
        if entry is not None:
            self._by_key.move_to_end(key)
        return entry

    def add(self, key: bytes, response: LLMResponse, *, now: float, expires_at: float) -> _Entry | None:
        """Add or replace an entry; the one that had to go for it."""
        dropped = self._by_key.pop(key, None)
        if len(self._by_key) >= self._max_size:
            dropped = self._evict(now)
        self._serial += 1
        self._by_key[key] = _Entry(response, expires_at, self._serial)
        if expires_at < math.inf:
            heapq.heappush(self._deadlines, (expires_at, self._serial, key))
        if len(self._deadlines) > 2 * len(self._by_key) + _MAX_STALE_DEADLINES:
            self._deadlines = [(e.expires_at, e.serial, k) for k, e in self._by_key.items() if e.expires_at < math.inf]
            heapq.heapify(self._deadlines)
        return dropped

    def remove(self, key: bytes) -> _Entry | None:
        return self._by_key.pop(key, None)

    def expire(self, now: float) -> list[_Entry]:
        """Remove every entry whose time is over."""
        dropped = []
        while (key := self._next_expired(now)) is not None:
            dropped.append(self._by_key.pop(key))
        return dropped

    def _evict(self, now: float) -> _Entry:
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
