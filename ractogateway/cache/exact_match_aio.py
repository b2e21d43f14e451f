"""The in-process cache for async code."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from anyio.to_thread import run_sync

from ractogateway.cache.exact_match import check_answer
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.flights import LONGEST_WAIT_SECONDS, PATIENCE, Flight
from ractogateway.cache.protocol import CacheStats
from ractogateway.errors import UnsupportedEventLoopError
from ractogateway.messages import LLMResponse

if TYPE_CHECKING:
    from ractogateway.cache.exact_match import ExactMatchCache

__all__ = ["AsyncExactMatchCache"]

_running: set[asyncio.Task[LLMResponse]] = set()  # a loop itself refers to its tasks weakly


class AsyncExactMatchCache:
    """An `ExactMatchCache` with awaitable methods. Nothing here waits but `get_or_compute`."""

    def __init__(self, cache: ExactMatchCache) -> None:
        self._cache = cache

    async def get(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> LLMResponse | None:
        """See `ExactMatchCache.get`."""
        return self._cache.get(user_message, system_prompt, model, temperature, max_tokens, context=context)

    async def put(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        response: LLMResponse,
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
    ) -> None:
        """See `ExactMatchCache.put`."""
        request = (user_message, system_prompt, model, temperature, max_tokens)
        self._cache.put(*request, response, context=context, ttl_seconds=ttl_seconds)

    async def get_or_compute(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        compute: Callable[[], Awaitable[LLMResponse] | LLMResponse],
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
        max_temperature: float = 0.0,
    ) -> LLMResponse:
        """See `ExactMatchCache.get_or_compute`, whose callers and these share their computations.

        ``compute`` may be a coroutine function, or a blocking one, which is called in a thread. It runs in a task of
        its own: a caller that is cancelled does not take the others' answer with it, and when the last of them is gone,
        it is cancelled too.

        Raises:
            UnsupportedEventLoopError: The running loop is not asyncio's.
        """
        loop = _running_loop()
        cache = self._cache
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        order = cache._order(key, temperature, max_temperature, ttl_seconds)  # noqa: SLF001 - this and below: one class
        patience = PATIENCE
        while True:
            boarding = cache._board(order, joins=patience > 0, blocking=False)  # noqa: SLF001
            if isinstance(boarding, LLMResponse):
                return boarding
            flight = boarding.flight
            try:
                if boarding.leads:
                    return await asyncio.shield(self._lead(order, flight, compute, loop))
                landing = asyncio.wrap_future(flight.landed)
                done, _ = await asyncio.wait((landing,), timeout=LONGEST_WAIT_SECONDS)
            finally:
                cache._leave(flight)  # noqa: SLF001
            shared = landing.result() if done else None
            if shared is not None:
                return cache._coalesced(shared)  # noqa: SLF001
            patience = patience - 1 if done else 0

    async def invalidate(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """See `ExactMatchCache.invalidate`."""
        return self._cache.invalidate(user_message, system_prompt, model, temperature, max_tokens, context=context)

    async def clear(self) -> None:
        """See `ExactMatchCache.clear`."""
        self._cache.clear()

    async def stats(self) -> CacheStats:
        """See `ExactMatchCache.stats`."""
        return self._cache.stats

    async def size(self) -> int:
        """The number of live entries."""
        return len(self._cache)

    def __repr__(self) -> str:
        return f"{self._cache!r}.aio"

    def _lead(
        self, order: Any, flight: Flight, compute: Callable[[], Any], loop: asyncio.AbstractEventLoop
    ) -> asyncio.Task[LLMResponse]:
        """Begin the computation, in a task of its own."""
        cache = self._cache

        async def work() -> LLMResponse:
            flight.enter()
            response = None
            try:
                response = answer = check_answer(await _called(compute))
            finally:
                cache._land(order, flight, response)  # noqa: SLF001
            return answer

        def ended(task: asyncio.Task[LLMResponse]) -> None:
            _running.discard(task)
            if not task.cancelled():
                task.exception()  # if its caller is gone, nobody else asks for it, and asyncio would say so
            elif not flight.landed.done():  # cancelled before it had begun
                cache._land(order, flight, None)  # noqa: SLF001

        task = loop.create_task(work())
        _running.add(task)
        task.add_done_callback(ended)
        flight.is_lost = loop.is_closed
        flight.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        return task


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedEventLoopError("get_or_compute needs a running asyncio event loop") from None


async def _called(compute: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(compute):
        return await compute()
    result = await run_sync(compute)
    return await result if inspect.isawaitable(result) else result
