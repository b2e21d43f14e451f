"""What a memory and its awaitable twin count together, and say once."""

from __future__ import annotations

import logging

from ractogateway.redis._memory.values import MemoryStats

logger = logging.getLogger("ractogateway.redis")


class Counters:
    """Plain integers: a lost increment between threads costs less than a lock on every read."""

    def __init__(self) -> None:
        self._skipped = 0
        self._oversized = 0
        self._hook_failures = 0

    def skipped(self, entries: int) -> None:
        """So many entries were left out."""
        if entries and not self._skipped:
            logger.warning("chat memory: entries that cannot be read are skipped; their number is in stats")
        self._skipped += entries

    def oversized(self) -> None:
        """One turn exceeds the bound by itself."""
        if not self._oversized:
            logger.warning("chat memory: a turn alone exceeds max_tokens and is kept; their number is in stats")
        self._oversized += 1

    def hook_failed(self, error: BaseException) -> None:
        """on_evict raised."""
        # Not the error itself: its text may quote a message.
        logger.warning("chat memory: on_evict failed (%s); the messages are kept for it", type(error).__name__)
        self._hook_failures += 1

    def stats(self) -> MemoryStats:
        """The counts so far."""
        return MemoryStats(self._skipped, self._oversized, self._hook_failures)
