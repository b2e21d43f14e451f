"""How a kit talks to whatever it was given as ``exact_cache=``.

Three rules hold for every cache. It never blocks an event loop; it never fails a request (an answer that was paid for
reaches its caller whatever happens to the cache); and nothing it does writes a prompt or an answer into a log.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from ractogateway._kit.computing import AsyncOwnCall, OwnCall, Wanted, offers, storable_copy
from ractogateway._kit.request import RequestIdentity
from ractogateway.cache.protocol import ExactCache
from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning, InvalidTypeError, InvalidValueError
from ractogateway.messages import LLMResponse

__all__ = ["AsyncExactCache", "CacheAccess"]

_log = logging.getLogger("ractogateway.kit")
_T = TypeVar("_T")

_THREADS = 32
# Not anyio's own limiter: a cache that hangs must not use up the threads in which the application serves requests.
_limiter: RunVar[CapacityLimiter] = RunVar("ractogateway cache threads")


class AsyncExactCache(Protocol):
    """As much of an async core as a kit needs; `AsyncRedisExactCache` is one."""

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
        """The stored answer, marked ``cached``, or None."""
        ...

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
    ) -> None:
        """Store an answer."""
        ...


class CacheAccess:
    """The cache of one kit, in blocking and in async code; without a cache every lookup misses and nothing is stored.

    ``answer``, ``lookup`` and ``store`` need a blocking face. ``aanswer``, ``alookup`` and ``astore`` take any: an
    async core, a face that has one as ``.aio``, or a blocking object (called in a thread).
    """

    def __init__(self, cache: ExactCache | AsyncExactCache | None) -> None:
        if cache is not None:
            _check_cache(cache)
        self._cache: Any = cache  # Any: a face that may be blocking or async, of which the check above saw the methods
        self._is_async = inspect.iscoroutinefunction(getattr(cache, "get", None))
        self._computes = offers(cache, "get_or_compute")
        # The same of the async form, which is not made before somebody awaits.
        self._has_core: bool | None = None
        self._core_computes: bool | None = None
        self._unnameable_seen = False

    def check_blocking(self) -> None:
        """Refuse an async core before anything is sent: a blocking call cannot await it."""
        if self._is_async:
            raise InvalidTypeError(
                f"exact_cache is a {type(self._cache).__name__}, which is async: use achat or astream, "
                "or pass its blocking face, which serves both"
            )

    def answer(self, wanted: Wanted, compute: Callable[[], LLMResponse]) -> LLMResponse:
        """The stored answer, or what ``compute`` returns; in the calling thread.

        A cache with ``get_or_compute`` decides who of all that ask at the same time computes.
        """
        if self._computes and wanted.max_temperature is not None:
            own = OwnCall(compute)
            found, broke = None, None
            try:
                found = self._cache.get_or_compute(*wanted.identity.fields, own, **wanted.limits())
            except Exception as error:  # noqa: BLE001 - see lookup
                broke = error
            if (answer := self._of(own, broke)) is not None:
                return answer
        else:
            found = self.lookup(wanted.identity)
        answer = self._usable(wanted, found)
        if answer is None:
            answer = compute()
            if wanted.may_store(answer):
                self.store(wanted.identity, answer)
        return answer

    async def aanswer(self, wanted: Wanted, compute: Callable[[], Awaitable[LLMResponse]]) -> LLMResponse:
        """`answer` for async code: without blocking the event loop."""
        core = self._core()
        if self._core_computes is None:
            self._core_computes = core is not None and offers(core, "get_or_compute")
        if core is not None and self._core_computes and wanted.max_temperature is not None:
            own = AsyncOwnCall(compute)
            found, broke = None, None
            try:
                found = await core.get_or_compute(*wanted.identity.fields, own.make, **wanted.limits())
            except Exception as error:  # noqa: BLE001 - see lookup
                broke = error
            if (answer := self._of(own, broke)) is not None:
                return answer
        else:
            found = await self.alookup(wanted.identity)
        answer = self._usable(wanted, found)
        if answer is None:
            answer = await compute()
            if wanted.may_store(answer):
                await self.astore(wanted.identity, answer)
        return answer

    def lookup(self, identity: RequestIdentity) -> LLMResponse | None:
        """The stored answer, or None; in the calling thread."""
        if self._cache is None:
            return None
        try:
            answer = self._cache.get(*identity.fields, context=identity.context)
        except Exception as error:  # noqa: BLE001 - a cache never fails a request, whoever wrote it
            self._failed("lookup", error)
            return None
        return self._checked(answer)

    def store(self, identity: RequestIdentity, response: LLMResponse) -> None:
        """Store an answer; in the calling thread."""
        if self._cache is None:
            return
        try:
            self._cache.put(*identity.fields, storable_copy(response), context=identity.context)
        except Exception as error:  # noqa: BLE001 - see lookup
            self._failed("store", error)

    async def alookup(self, identity: RequestIdentity) -> LLMResponse | None:
        """The stored answer, or None; without blocking the event loop."""
        if self._cache is None:
            return None
        try:
            answer = await self._call("get", *identity.fields, context=identity.context)
        except Exception as error:  # noqa: BLE001 - see lookup
            self._failed("lookup", error)
            return None
        return self._checked(answer)

    async def astore(self, identity: RequestIdentity, response: LLMResponse) -> None:
        """Store an answer; without blocking the event loop."""
        if self._cache is None:
            return
        try:
            await self._call("put", *identity.fields, storable_copy(response), context=identity.context)
        except Exception as error:  # noqa: BLE001 - see lookup
            self._failed("store", error)

    def _core(self) -> Any:
        """What can be awaited, if there is something."""
        if self._is_async:
            return self._cache
        if self._has_core is None:
            # Not one that was inherited: that of the in-process cache calls it in the event loop, and a subclass may
            # have made its methods slow.
            self._has_core = offers(self._cache, "aio")
        return self._cache.aio if self._has_core else None

    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        core = self._core()
        if core is not None:
            return await getattr(core, method)(*args, **kwargs)
        return await _in_thread(partial(getattr(self._cache, method), *args, **kwargs))

    def _of(self, own: OwnCall | AsyncOwnCall, broke: Exception | None) -> LLMResponse | None:
        """The answer of the caller's own call, if there was one. Its failure is raised; the cache's is a miss."""
        if broke is not None:
            if own.failure is not None:
                raise own.failure  # here, not where the cache's error is handled: that would stay with it
            self._failed("lookup" if own.answer is None else "store", broke)
        return own.answer

    def _usable(self, wanted: Wanted, found: object) -> LLMResponse | None:
        hit = self._checked(found)
        return None if hit is None else wanted.usable(hit)

    def _checked(self, answer: object) -> LLMResponse | None:
        if answer is None:
            return None
        if not isinstance(answer, LLMResponse):
            _log.warning("exact cache lookup returned a %s, not an LLMResponse; taken as a miss", type(answer).__name__)
            return None
        # Caches of this library mark their hits; another one may hand out what was stored as it was.
        return answer if answer.cached else answer.as_hit()

    def _failed(self, action: str, error: Exception) -> None:
        if isinstance(error, (BlockingCallInLoopError, BlockingCallWarning)):
            raise error  # no failure of the cache: the application forbids blocking calls inside its loop
        if not isinstance(error, (InvalidTypeError, InvalidValueError)):
            # The type alone: the message of a cache that is not ours might quote a key or a value.
            _log.warning("exact cache %s failed: %s; the request goes on without it", action, type(error).__name__)
        elif not self._unnameable_seen:
            # Something in `extra`, tools or history has no canonical form. That stays so for all requests of this
            # shape, hence once.
            self._unnameable_seen = True
            _log.warning(
                "a request the exact cache cannot name, or whose answer it cannot keep, bypasses it: %s (logged once)",
                error,
            )


def _check_cache(cache: object) -> None:
    if isinstance(cache, type):
        raise InvalidTypeError(f"exact_cache must be an instance, not the class {cache.__name__}")
    missing = [name for name in ("get", "put") if not callable(getattr(cache, name, None))]
    if missing:
        raise InvalidTypeError(
            f"exact_cache must have get and put, as ExactMatchCache and RedisExactCache do; "
            f"{type(cache).__name__} has no {' and no '.join(missing)}"
        )


async def _in_thread(call: Callable[[], _T]) -> _T:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    # Abandoned on cancel: a caller that gave up does not wait for a slow cache, whose thread ends by itself.
    return await run_sync(call, limiter=limiter, abandon_on_cancel=True)
