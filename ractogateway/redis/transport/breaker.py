"""A circuit breaker: once many calls in a row have failed, the next ones fail at once instead of waiting for their time
limits, and one call at a time finds out whether Redis is back.

It sits below the tools, so it counts failures that a tool swallows (the cache's, for one). The pattern is M. Nygard's,
"Release It!" (2007).

A server that refuses writes and serves reads must not cost anybody the reads. Where it refuses at once (OOM, MISCONF,
NOREPLICAS), nobody waits for a time limit either, so that counts as an answer. A replica's READONLY is different: a
primary that was just demoted says so, its successor is a new connection away, and so a write is tried again until its
time is up. When many in a row have ended so, writes fail at once like everything else would, and reads go on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from ractogateway._forking import renewed_after_fork
from ractogateway.errors import BreakerOpen, StoreNotReady, StoreRefused, StoreUnavailable
from ractogateway.redis.transport.call import Call
from ractogateway.redis.transport.failures import WRITES_REFUSED

logger = logging.getLogger("ractogateway.redis.transport")


_NO_PROBE = -math.inf


class Breaker:
    """Counts the outcomes of one object's calls. Safe for threads.

    Args:
        failures: so many failed calls in a row open the breaker.
        seconds: so long it refuses all calls; then one is let through, whose outcome closes or opens it again.
        patience: so long a probe may take. Later ones are let through even if its end was never told: a signal handler
            may raise anywhere, also between the probe's admission and its first line.
    """

    def __init__(self, failures: int, seconds: float, patience: float) -> None:
        self._everything = Circuit(failures, seconds, max(seconds, patience))
        self._writes = Circuit(failures, seconds, max(seconds, patience))
        self._calm = True  # nothing has failed since the last success; read without the lock, for nearly every call
        self._lock = threading.RLock()
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the thread that held the lock, or was the probe, has stayed in the parent."""
        self._lock = threading.RLock()
        for circuit in (self._everything, self._writes):
            circuit.forget_probe()

    def admit(self, *calls: Call[Any]) -> tuple[Circuit, ...]:
        """Let calls that are sent together through, or refuse them.

        Returns:
            The circuits that they are the probe of, whose end must be told in any case.

        Raises:
            BreakerOpen: nothing was sent.
        """
        if self._calm:
            return ()
        with self._lock:
            now, concerned = time.monotonic(), self._concerned(calls)
            if any(circuit.refuses(now) for circuit in concerned):
                raise BreakerOpen("Redis was unavailable a moment ago; it is not asked again before a probe succeeds")
            return tuple(circuit for circuit in concerned if circuit.begin_probe(now))

    def succeeded(self, *calls: Call[Any]) -> None:
        """The server answered, be it with an error."""
        if self._calm:
            return
        with self._lock:
            closed = [circuit.close() for circuit in self._concerned(calls)]
            self._calm = self._everything.calm and self._writes.calm
        if any(closed):
            logger.info("circuit breaker closed: Redis answers again")

    def ended_badly(self, error: BaseException, *calls: Call[Any], probed: tuple[Circuit, ...]) -> None:
        """The calls raised: an outage, an error that the server sent, or a cancellation."""
        code = error.code if isinstance(error, StoreNotReady) else ""
        if isinstance(error, StoreRefused) or code in WRITES_REFUSED:
            self.succeeded(*calls)
        elif code == "READONLY":
            self._failed({self._writes}, "%d writes in a row were refused by a replica")
        elif isinstance(error, StoreUnavailable):
            self._failed({self._everything, *probed}, "%d calls in a row failed")
        elif probed:  # their outcome will never be known: the next call is the probe
            with self._lock:
                for circuit in probed:
                    circuit.forget_probe()

    def _concerned(self, calls: tuple[Call[Any], ...]) -> tuple[Circuit, ...]:
        if all(call.reads_only for call in calls):
            return (self._everything,)
        return (self._everything, self._writes)

    def _failed(self, circuits: set[Circuit], what: str) -> None:
        with self._lock:
            self._calm = False
            if self._everything not in circuits:  # the server answers
                self._everything.close()
            opened = [circuit.in_a_row for circuit in circuits if circuit.fail(time.monotonic())]
        for in_a_row in opened:
            logger.info(f"circuit breaker open: {what}", in_a_row)  # noqa: G004 - the words are ours


class Circuit:
    """Closed, open, or half open: one call is under way to find out. All methods need the breaker's lock."""

    def __init__(self, failures: int, seconds: float, patience: float) -> None:
        self._threshold = failures
        self._seconds = seconds
        self._patience = patience
        self.in_a_row = 0
        self._opened_at: float | None = None
        self._probe_began = _NO_PROBE

    @property
    def calm(self) -> bool:
        """Whether nothing has failed since the last success."""
        return self.in_a_row == 0 and self._opened_at is None

    def refuses(self, now: float) -> bool:
        """Whether calls fail at once."""
        if self._opened_at is None:
            return False
        return now - self._opened_at < self._seconds or now - self._probe_began < self._patience

    def begin_probe(self, now: float) -> bool:
        """Whether a call that is let through is the probe."""
        if self._opened_at is None:
            return False
        self._probe_began = now
        return True

    def forget_probe(self) -> None:
        """Its end will not be told."""
        self._probe_began = _NO_PROBE

    def close(self) -> bool:
        """A call came through; whether the circuit was open."""
        was_open = self._opened_at is not None
        self.in_a_row, self._opened_at, self._probe_began = 0, None, _NO_PROBE
        return was_open

    def fail(self, now: float) -> bool:
        """A call failed; whether that opens the circuit."""
        self.in_a_row += 1
        opens = self._opened_at is None and self.in_a_row >= self._threshold
        if opens or self._probe_began != _NO_PROBE:
            self._opened_at = now
            self._probe_began = _NO_PROBE
        return opens
