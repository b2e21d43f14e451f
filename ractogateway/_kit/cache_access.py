"""How a kit talks to whatever it was given as ``exact_cache=``.

Three rules hold for every cache. It never blocks an event loop; it never fails a request (an answer that was paid for
reaches its caller whatever happens to the cache); and nothing it does writes a prompt or an answer into a log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from ractogateway._kit.computing import Compute, OwnCall, Wanted, storable_copy
from ractogateway._kit.given import Given, offers
from ractogateway._kit.request import RequestIdentity
from ractogateway._kit.sides import Join, Side
from ractogateway.cache.protocol import ExactCache
from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning, InvalidTypeError, InvalidValueError
from ractogateway.messages import LLMResponse

__all__ = ["AsyncExactCache", "CacheAccess"]

_log = logging.getLogger("ractogateway.kit")
_METHODS = ("get", "put")
_COMPUTE, _AHEAD = "get_or_compute", "get_or_compute_ahead"


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
    """The cache of one kit; without one every lookup misses and nothing is stored."""

    def __init__(self, cache: ExactCache | AsyncExactCache | None) -> None:
        self.given = (
            None if cache is None else Given("exact_cache", cache, _METHODS, like="ExactMatchCache and RedisExactCache")
        )
        self._ways: dict[type[Side], str | None] = {}
        self._unnameable_seen = False

    async def answer(self, side: Side, wanted: Wanted, compute: Compute, ending: list[Join]) -> LLMResponse:
        """The stored answer, or what ``compute`` returns.

        A cache with ``get_or_compute`` decides who of all that ask at the same time computes. One with
        ``get_or_compute_ahead`` hands an answer out before it is stored; what waits for that is appended to ``ending``.
        """
        given, way = self.given, None
        if given is not None and wanted.max_temperature is not None:
            way = self._way_to_compute(side, given)
        if given is not None and way is not None:
            own = OwnCall(compute)
            found, broke = None, None
            make, limits = side.function(own.make), wanted.limits()
            try:
                found = await side.call(given, way, *wanted.identity.fields, make, **limits)
                if way == _AHEAD:
                    found, stored = found
                    if stored is not None:
                        ending.append(lambda: self._attempted(stored()))
            except Exception as error:  # noqa: BLE001 - see lookup
                broke = error
            if (answer := self._of(own, broke)) is not None:
                return answer
        else:
            found = await self.lookup(side, wanted.identity)
        answer = self._usable(wanted, found)
        if answer is None:
            answer = await compute()
            if wanted.may_store(answer):
                ending.append(await self.begin_to_store(side, wanted.identity, answer))
        return answer

    async def lookup(self, side: Side, identity: RequestIdentity) -> LLMResponse | None:
        """The stored answer, or None."""
        if self.given is None:
            return None
        try:
            answer = await side.call(self.given, "get", *identity.fields, context=identity.context)
        except Exception as error:  # noqa: BLE001 - a cache never fails a request, whoever wrote it
            self._failed("lookup", error)
            return None
        return self._checked(answer)

    async def begin_to_store(self, side: Side, identity: RequestIdentity, response: LLMResponse) -> Join:
        """Begin to store an answer; what waits for the end of that."""
        given = self.given
        if given is None:
            return _nothing
        try:
            kept = storable_copy(response)  # at once: from here on the answer is its caller's
        except Exception as error:  # noqa: BLE001 - see lookup
            self._failed("store", error)
            return _nothing

        async def store() -> None:
            await self._attempted(side.call(given, "put", *identity.fields, kept, context=identity.context))

        return await side.begin(store)

    async def _attempted(self, storing: Awaitable[None]) -> None:
        try:
            await storing
        except Exception as error:  # noqa: BLE001 - see lookup
            self._failed("store", error)

    def _way_to_compute(self, side: Side, given: Given) -> str | None:
        """The method by which the cache decides who computes; None where it has none."""
        kind = type(side)
        if kind not in self._ways:
            target, ways = side.target(given), {_COMPUTE: _METHODS, _AHEAD: (*_METHODS, _COMPUTE)}
            offered = [way for way, beside in ways.items() if target is not None and offers(target, way, beside=beside)]
            self._ways[kind] = offered[-1] if _COMPUTE in offered else None
        return self._ways[kind]

    def _of(self, own: OwnCall, broke: Exception | None) -> LLMResponse | None:
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


async def _nothing() -> None:
    """There is no cache to wait for."""
