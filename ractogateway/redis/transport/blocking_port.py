"""What the ports of blocking callers have in common: their awaitables never suspend."""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ractogateway._driving import drive
from ractogateway.errors import InvalidTypeError
from ractogateway.redis.transport.port import Port
from ractogateway.redis.transport.waking import Signal

T = TypeVar("T")


class BlockingPort(Port):
    """Time passes in the calling thread, and users' functions run there."""

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this coroutine is driven by a blocking caller, there is no loop to stop

    def now(self) -> float:
        return time.monotonic()

    def loop(self) -> None:
        return None

    async def wait(self, signal: Signal, seconds: float) -> bool:
        woken = threading.Lock()
        woken.acquire()
        if not signal.add(woken.release):
            return True
        try:
            woken.acquire(timeout=max(0.0, seconds))
        finally:  # a signal handler may raise here
            signal.discard(woken.release)
        return signal.happened

    async def gather(self) -> None:
        return

    async def lead(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        await work
        return _nothing

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        context = contextvars.copy_context()
        try:
            threading.Thread(target=context.run, args=(drive, work), name="ractogateway-refresh", daemon=True).start()
        except RuntimeError:  # late in the exit of the interpreter
            work.close()

    async def call_user(self, function: Callable[..., T | Awaitable[T]], *arguments: Any) -> T:
        result = function(*arguments)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InvalidTypeError("a blocking call was given a coroutine function; use the async class, or .aio")
        return result

    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:  # noqa: ARG002
        # Nothing can cancel a driven coroutine, and each call inside has its own time limit.
        await work()

    async def aclose(self) -> None:
        return


def _nothing() -> None:
    """The work is done when its caller gets here."""
