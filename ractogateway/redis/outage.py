"""One log line per change of state, however many calls fail in between."""

from __future__ import annotations

import logging

from ractogateway.errors import StoreError

logger = logging.getLogger("ractogateway.redis")


class OutageLog:
    """What one object knows about its server: whether the last call got through, and how many did not."""

    def __init__(self, tool: str, consequence: str) -> None:
        self.errors = 0
        self._tool = tool
        self._consequence = consequence
        self._down = False
        self._recoveries = 0

    def began(self) -> int:
        """A call begins; what it returns goes to `failed` if the call fails."""
        return self._recoveries

    def failed(self, error: StoreError, began: int) -> None:
        """A call failed and its error was not passed on. One that began before the last recovery tells of the past."""
        self.errors += 1
        if not self._down and began == self._recoveries:
            self._down = True
            logger.warning("%s: Redis is unavailable (%s); %s", self._tool, type(error).__name__, self._consequence)

    def succeeded(self) -> None:
        """A call got through."""
        if self._down:
            self._down = False
            self._recoveries += 1
            logger.info("%s: Redis is available again", self._tool)
