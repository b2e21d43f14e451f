"""An exact cache in this process: least recently used out first, each entry with its own end of life."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from ractogateway._checks import check_temperature, check_tokens, check_ttl, type_name
from ractogateway._forking import renewed_after_fork
from ractogateway._refusing import OfOneProcess
from ractogateway.cache.entries import Entries
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.flights import LONGEST_WAIT_SECONDS, PATIENCE, Flight, FlightTable
from ractogateway.cache.policy import is_storable
from ractogateway.cache.protocol import CacheStats
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import LLMResponse

if TYPE_CHECKING:
    from ractogateway.cache.exact_match_aio import AsyncExactMatchCache

__all__ = ["ExactMatchCache"]


class ExactMatchCache(OfOneProcess):
    """A blocking `ExactCache` for one process, safe to share between threads.

    ``aio`` is the same cache for async code. A hit is a copy, and so is what ``put`` keeps: changing one changes
    nothing else. ``LLMResponse.raw``, the provider's own object, is not kept. ``put`` stores any answer; which ones
    deserve it is `is_storable`'s question.

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
        self._entries = Entries(self._max_size)
        self._flights = FlightTable()
        self._counted: dict[str, int] = dict.fromkeys(("hits", "misses", "coalesced", "saved_tokens"), 0)
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
            if entry is None or entry.expires_at <= now:
                self._entries.remove(key)
                self._counted["misses"] += 1
                return None
            self._count("hits", entry.response)
        return entry.response.as_hit()

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

        A computation of the same answer that is under way does not replace it.

        Raises:
            InvalidTypeError: Also where ``response.parsed`` cannot be copied.
        """
        if not isinstance(response, LLMResponse):
            raise InvalidTypeError(f"response must be an LLMResponse, not {type_name(response)}")
        own_ttl = check_ttl("ttl_seconds", ttl_seconds)
        ttl = self._ttl_seconds if own_ttl is None else own_ttl
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        stored = _as_stored(response)
        now = self._clock()
        with self._lock:
            self._flights.forget(key)
            dropped = self._entries.add(key, stored, now=now, expires_at=math.inf if ttl is None else now + ttl)
        del dropped

    def get_or_compute(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        compute: Callable[[], LLMResponse],
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
        max_temperature: float = 0.0,
    ) -> LLMResponse:
        """The stored answer, or what ``compute()`` returns: called once, however many threads and tasks ask meanwhile.

        Whoever computes gets its own answer; the others wait for it, and get a copy that is marked as a hit. It is
        shared and stored only if `is_storable` says so (``max_temperature`` is passed on); above that temperature every
        call computes. An error reaches the one whose call it was: the others try for themselves. A ``put``,
        ``invalidate`` or ``clear`` during the computation wins: its answer is not stored, and later calls do not wait
        for it.

        Raises:
            InvalidTypeError: Also where ``compute`` returns something else than an answer.
        """
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        order = self._order(key, temperature, max_temperature, ttl_seconds)
        patience = PATIENCE
        while True:
            boarding = self._board(order, joins=patience > 0, blocking=True)
            if isinstance(boarding, LLMResponse):
                return boarding
            if boarding.leads:
                return copy_context().run(self._lead, order, boarding.flight, compute)
            shared = None
            try:
                shared = boarding.flight.landed.result(LONGEST_WAIT_SECONDS)
                patience -= 1
            except TimeoutError:
                patience = 0
            finally:
                self._leave(boarding.flight)
            if shared is not None:
                return self._coalesced(shared)

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
        """Forget one entry; True if there was one. An answer that is being computed meanwhile is not stored."""
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        now = self._clock()
        with self._lock:
            self._flights.forget(key)
            removed = self._entries.remove(key)
        return removed is not None and removed.expires_at > now

    def clear(self) -> None:
        """Forget all entries, and what is being computed meanwhile. The counters go on."""
        empty = Entries(self._max_size)
        with self._lock:
            self._flights = FlightTable()
            self._entries, dropped = empty, self._entries
        del dropped

    @property
    def aio(self) -> AsyncExactMatchCache:
        """The same cache for async code. Its methods return at once, but for those that compute."""
        from ractogateway.cache.exact_match_aio import AsyncExactMatchCache  # noqa: PLC0415 - which imports this

        return AsyncExactMatchCache(self)

    @property
    def stats(self) -> CacheStats:
        """Counters since this cache was made."""
        size, counted = self._read()
        return CacheStats.model_validate({**counted, "size": size})

    def __len__(self) -> int:
        return self._read()[0]

    def __bool__(self) -> bool:
        # An empty cache is still a cache: `if exact_cache:` must not skip it.
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={len(self)}, max_size={self._max_size})"

    # -- computing, for both forms of get_or_compute -------------------------------------------------------------------

    def _order(self, key: bytes, temperature: float, max_temperature: float, ttl_seconds: float | None) -> _Order:
        own_ttl = check_ttl("ttl_seconds", ttl_seconds)
        ttl = self._ttl_seconds if own_ttl is None else own_ttl
        return _Order(key, temperature, check_temperature(max_temperature, "max_temperature"), ttl)

    def _board(self, order: _Order, *, joins: bool, blocking: bool) -> LLMResponse | _Boarding:
        """The stored answer as a hit; else a computation under way to wait for, or a new one to do."""
        joins = joins and 0.0 <= order.temperature <= order.max_temperature
        now = self._clock()
        with self._lock:
            entry = self._entries.use(order.key)
            if entry is None or entry.expires_at <= now:
                self._entries.remove(order.key)
                flight = self._flights.join(order.key, blocking=blocking) if joins else None
                if flight is not None:
                    return _Boarding(flight, leads=False)
                self._counted["misses"] += 1
                return _Boarding(self._flights.begin(order.key), leads=True)
            self._count("hits", entry.response)
        return entry.response.as_hit()

    def _lead(self, order: _Order, flight: Flight, compute: Callable[[], LLMResponse]) -> LLMResponse:
        flight.enter()
        response = None
        try:
            response = answer = check_answer(compute())
        finally:
            self._land(order, flight, response)
        return answer

    def _land(self, order: _Order, flight: Flight, response: LLMResponse | None) -> None:
        """The computation has ended: store its answer, and hand it to those who wait; or let them go without."""
        limits = {"temperature": order.temperature, "max_temperature": order.max_temperature}
        stored = None
        # The answer was paid for, and its caller gets it, whatever `parsed` holds and does when it is copied.
        with contextlib.suppress(Exception):
            if response is not None and is_storable(response, **limits):
                stored = response.as_stored()
        dropped: Any = None
        now = self._clock()
        with self._lock:
            if self._flights.end(order.key, flight) and stored is not None:
                expires_at = math.inf if order.ttl is None else now + order.ttl
                dropped = self._entries.add(order.key, stored, now=now, expires_at=expires_at)
        del dropped
        flight.landed.set_result(stored)

    def _leave(self, flight: Flight) -> None:
        with self._lock:
            cancel = self._flights.leave(flight)
        if cancel is not None:
            cancel()

    def _coalesced(self, shared: LLMResponse) -> LLMResponse:
        with self._lock:
            self._count("coalesced", shared)
        return shared.as_hit()

    def _count(self, what: str, response: LLMResponse) -> None:
        self._counted[what] += 1
        self._counted["saved_tokens"] += response.usage.total_tokens

    def _read(self) -> tuple[int, dict[str, int]]:
        """The number of live entries, and the counters."""
        now = self._clock()
        with self._lock:
            dropped = self._entries.expire(now)
            size, counted = len(self._entries), self._counted.copy()
        del dropped
        return size, counted

    def renew_after_fork(self) -> None:
        """In a forked child: a lock of its own."""
        # The thread that held the lock does not exist in the child, and left its change half made: start empty.
        if self._lock.locked():
            self._entries = Entries(self._max_size)
        self._flights = FlightTable()  # those who compute have stayed in the parent
        self._lock = threading.Lock()


class _Order(NamedTuple):
    """What is asked for, and how its answer would be kept."""

    key: bytes
    temperature: float
    max_temperature: float
    ttl: float | None


class _Boarding(NamedTuple):
    """A computation, and whether it is the caller's to do."""

    flight: Flight
    leads: bool


def check_answer(response: object) -> LLMResponse:
    """What a ``compute`` returned."""
    if not isinstance(response, LLMResponse):
        raise InvalidTypeError(f"compute must return an LLMResponse, not {type_name(response)}")
    return response


def _as_stored(response: LLMResponse) -> LLMResponse:
    try:
        return response.as_stored()
    except (TypeError, copy.Error) as error:
        raise InvalidTypeError("response.parsed cannot be copied, so it cannot be cached") from error
