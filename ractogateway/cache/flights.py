"""One computation of an answer for all who ask for it in this process, threads and tasks alike.

A *flight* is one computation under way. Whoever finds none for a request begins one; whoever finds one waits for it and
gets a copy of its answer. Nobody gets somebody else's error: where a computation fails, or its answer may not be
shared, those who waited ask again, and one of them begins the next. Who was disappointed twice, or waited for
`LONGEST_WAIT_SECONDS`, makes a call of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Final

from ractogateway.messages import LLMResponse

LONGEST_WAIT_SECONDS: Final = 60.0
PATIENCE: Final = 2
"""How many times a caller waits for somebody else's computation."""

_under: ContextVar[tuple[Flight, ...]] = ContextVar("computations under which this code runs", default=())


class Flight:
    """One computation of one answer.

    Attributes:
        landed: Done when the computation has ended; its result is the answer for everybody else, None if there is none.
        cancel: Ends it early; None where that is not possible, because a thread is at it.
        is_lost: Whether it can never end, because the event loop in which it ran is closed.
        callers: How many wait for it, whoever began it included. When nobody does any more, it is cancelled.
    """

    __slots__ = ("_thread", "callers", "cancel", "is_lost", "landed")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self.landed: Future[LLMResponse | None] = Future()
        self.landed.set_running_or_notify_cancel()  # from here on no waiter that is cancelled can cancel it
        self.cancel: Callable[[], object] | None = None
        self.is_lost: Callable[[], bool] = bool
        self.callers = 1

    def may_be_awaited(self, *, blocking: bool) -> bool:
        """Whether waiting for it can end: not below its own computation, and not where it would stop that one."""
        return self not in _under.get() and not (blocking and self._thread == threading.get_ident())

    def enter(self) -> None:
        """What runs in this context from now on belongs to this computation."""
        _under.set((*_under.get(), self))


class FlightTable:
    """The computations under way, by request. Its owner holds a lock around every call."""

    def __init__(self) -> None:
        # Several for one request where some have lost their patience; only the first is joined.
        self._by_key: dict[bytes, list[Flight]] = {}

    def join(self, key: bytes, *, blocking: bool) -> Flight | None:
        """The flight to wait for, with one more caller; None where a new one is to be begun."""
        flights = self._by_key.get(key)
        while flights and flights[0].is_lost():
            del flights[0]
        if not flights or not flights[0].may_be_awaited(blocking=blocking):
            return None
        flights[0].callers += 1
        return flights[0]

    def begin(self, key: bytes) -> Flight:
        """A new flight."""
        flight = Flight()
        self._by_key.setdefault(key, []).append(flight)
        return flight

    def end(self, key: bytes, flight: Flight) -> bool:
        """Take a flight out; False if it was overtaken by `forget`, so that its answer must not be stored."""
        flights = self._by_key.get(key, [])
        if flight not in flights:
            return False
        flights.remove(flight)
        if not flights:
            del self._by_key[key]
        return True

    def forget(self, key: bytes) -> None:
        """What is under way for this request is overtaken: nobody joins it any more, and it stores nothing."""
        self._by_key.pop(key, None)

    def leave(self, flight: Flight) -> Callable[[], object] | None:
        """One caller fewer; what to call if nobody is left."""
        flight.callers -= 1
        return None if flight.callers or flight.landed.done() or flight.is_lost() else flight.cancel
