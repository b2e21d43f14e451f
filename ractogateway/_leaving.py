"""Calls that may hang, each in a thread of its own, which is left behind when the time of the call is up.

Nobody can stop a thread: one that was left goes on until its call ends, as a daemon, which holds up no process's exit.
While there are `MOST_LEFT` of those in a process, no further call is begun, or what hangs would use up its memory, a
thread a call.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from ractogateway._forking import renewed_after_fork
from ractogateway.errors import ToolTimeout

__all__ = ["MOST_LEFT", "acall_within", "call_in_thread", "call_within", "late"]

T = TypeVar("T")

MOST_LEFT = 64


def call_in_thread(call: Callable[[], T]) -> T:
    """Call in another thread, with the caller's context variables, however long it takes."""
    errand = _Errand(call)
    try:
        errand.ended.result()
        return errand.result()
    finally:
        errand.leave()  # of an interrupted caller


def call_within(seconds: float, call: Callable[[], T], *, grace_seconds: float = 0.0) -> T:
    """`call_in_thread`, and wait for its end so long, and as long as the grace, of which nobody is told.

    Raises:
        ToolTimeout: It has not ended in time, and goes on; or it was not begun, see above.
    """
    _check_left()
    errand = _Errand(call)
    try:
        errand.ended.result(timeout=seconds + grace_seconds)
    except TimeoutError:
        failure = late(seconds)
    else:
        return errand.result()
    finally:
        errand.leave()
    raise failure


async def acall_within(seconds: float, call: Callable[[], T]) -> T:
    """`call_within` for async code. One whose caller is cancelled is left behind, too."""
    _check_left()
    errand = _Errand(call)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wrap_future(errand.ended)
    except TimeoutError:
        failure = late(seconds)
    else:
        return errand.result()
    finally:
        errand.leave()
    raise failure


def late(seconds: float) -> ToolTimeout:
    """The error of a call that has not ended in time."""
    return ToolTimeout(f"the tool did not answer within {seconds:g} s")


class _Left:
    """How many calls go on whose callers have left."""

    def __init__(self) -> None:
        self.renew_after_fork()
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        self.lock = threading.Lock()
        self.count = 0  # their threads are the parent's


_left = _Left()


def _check_left() -> None:
    if _left.count >= MOST_LEFT:
        raise ToolTimeout(f"the tool was not begun: {MOST_LEFT} calls that were given up are still running")


class _Errand(Generic[T]):
    """One call. ``ended`` is done when it has ended, and holds nothing."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # whoever waits may be cancelled; this may not
        self._value: T | None = None
        self._error: BaseException | None = None
        self._has_ended = self._is_counted = False
        run = partial(contextvars.copy_context().run, partial(self._run, call))
        threading.Thread(target=run, name="ractogateway tool", daemon=True).start()

    def result(self) -> T:
        """What the call returned, or raised."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._value  # type: ignore[return-value]
        finally:
            del error  # no cycle of the error and this frame

    def leave(self) -> None:
        """Nobody waits any more. A call that has not ended is counted until it does."""
        with _left.lock:
            if not self._has_ended:
                self._is_counted = True
                _left.count += 1

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self._error = error
        with _left.lock:
            self._has_ended = True
            if self._is_counted:
                _left.count -= 1
        self.ended.set_result(None)
