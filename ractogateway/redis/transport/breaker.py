"""A circuit breaker: once many calls in a row have failed, the next ones fail at once instead of waiting for their time
limits, and one call at a time finds out whether Redis is back.

It sits below the tools, so it counts failures that a tool swallows (the cache's, for one). The pattern is M. Nygard's,
"Release It!" (2007).
"""

from __future__ import annotations

import logging
import math
import threading
import time

from ractogateway._forking import renewed_after_fork
from ractogateway.errors import BreakerOpen, StoreNotReady, StoreRefused, StoreUnavailable
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
        self._threshold = failures
        self._seconds = seconds
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._patience = max(seconds, patience)
        self._probe_began = _NO_PROBE
        self._lock = threading.RLock()
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the thread that held the lock, or was the probe, has stayed in the parent."""
        self._lock = threading.RLock()
        self._probe_began = _NO_PROBE

    def admit(self) -> bool:
        """Let a call through, or refuse it. True when it is the probe, whose end must be told in any case.

        Raises:
            BreakerOpen: nothing was sent.
        """
        if self._opened_at is None:
            return False
        with self._lock:
            if self._opened_at is None:
                return False
            now = time.monotonic()
            if now - self._opened_at < self._seconds or now - self._probe_began < self._patience:
                raise BreakerOpen("Redis was unavailable a moment ago; it is not asked again before a probe succeeds")
            self._probe_began = now
            return True

    def succeeded(self) -> None:
        """The server answered, be it with an error."""
        if self._in_a_row or self._opened_at is not None:
            with self._lock:
                was_open = self._opened_at is not None
                self._in_a_row, self._opened_at, self._probe_began = 0, None, _NO_PROBE
            if was_open:
                logger.info("circuit breaker closed: Redis answers again")

    def ended_badly(self, error: BaseException, *, probe: bool) -> None:
        """The call raised: an outage, an error that the server sent, or a cancellation."""
        if isinstance(error, StoreRefused) or (isinstance(error, StoreNotReady) and error.code in WRITES_REFUSED):
            self.succeeded()  # a server that refuses writes does so at once; open, the breaker would refuse reads, too
        elif isinstance(error, StoreUnavailable):
            self._failed()
        elif probe:  # its outcome will never be known: the next call is the probe
            with self._lock:
                self._probe_began = _NO_PROBE

    def _failed(self) -> None:
        with self._lock:
            self._in_a_row += 1
            opens = self._opened_at is None and self._in_a_row >= self._threshold
            if opens or self._probe_began != _NO_PROBE:
                self._opened_at = time.monotonic()
                self._probe_began = _NO_PROBE
        if opens:
            logger.info("circuit breaker open: %d calls in a row failed", self._in_a_row)
