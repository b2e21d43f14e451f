"""What the ports of blocking callers have in common: their awaitables never suspend."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ractogateway.errors import InvalidTypeError
from ractogateway.redis.transport.port import Port

T = TypeVar("T")


class BlockingPort(Port):
    """Time passes in the calling thread, and users' functions run there."""

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this coroutine is driven by a blocking caller, there is no loop to stop

    def now(self) -> float:
        return time.monotonic()

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
