"""News of leases, by push, for those who wait for their end."""

from __future__ import annotations

from typing import Any

from ractogateway.redis.transport import Signal

__all__ = ["Wakers"]


class Wakers:
    """Who waits for news of which lease; the listener of a tracker."""

    def __init__(self) -> None:
        self._signals: dict[bytes, Signal] = {}

    def add(self, key: bytes, signal: Signal) -> None:
        """One at a time for each key. Under the tracker's lock."""
        self._signals[key] = signal

    def discard(self, key: bytes) -> None:
        """Nobody waits any longer."""
        self._signals.pop(key, None)

    def on_invalidate(self, keys: Any) -> None:
        """See `Listener`."""
        for key in list(self._signals) if keys is None else keys:
            signal = self._signals.pop(key, None)
            if signal is not None:
                signal.happen()
