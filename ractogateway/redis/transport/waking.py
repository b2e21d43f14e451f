"""How one caller of this process wakes others, whatever kind each is: tasks of several event loops, and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Signal:
    """Something that happens once, and that any number of callers may wait for by `Port.wait`.

    All methods may be called from any thread, in a signal handler, and under any lock: nothing here waits.
    """

    __slots__ = ("_happened", "_lock", "_wakers")

    def __init__(self) -> None:
        self._happened = False
        self._wakers: list[Callable[[], object]] = []
        self._lock = threading.RLock()

    @property
    def happened(self) -> bool:
        """Whether it has happened."""
        return self._happened

    def happen(self) -> None:
        """Wake all who wait. Twice is as good as once."""
        with self._lock:
            self._happened = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def add(self, wake: Callable[[], object]) -> bool:
        """Have ``wake`` called, in whatever thread, when it happens; False if it has happened already."""
        with self._lock:
            if not self._happened:
                self._wakers.append(wake)
            return not self._happened

    def discard(self, wake: Callable[[], object]) -> None:
        """Somebody waits no longer."""
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)
