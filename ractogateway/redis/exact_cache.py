"""An exact response cache that all replicas share: the async core."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ractogateway._checks import check_jitter, check_key_prefix, check_text, check_tokens, check_ttl, milliseconds
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.policy import jittered
from ractogateway.cache.protocol import CacheStats
from ractogateway.errors import InvalidValueError, StoreError
from ractogateway.messages import LLMResponse
from ractogateway.redis._core import Core
from ractogateway.redis.answers import SealedAnswers
from ractogateway.redis.compression import Compression, codec_called
from ractogateway.redis.config import CacheOutage, RedisOptions
from ractogateway.redis.encryption import Encryption, check_encryption
from ractogateway.redis.envelope import BadEnvelope, Envelopes, Flaw
from ractogateway.redis.keys import CacheKeys, namespace_digest
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import cache_calls as calls
from ractogateway.redis.transport import AsyncClient, TimeLimits

__all__ = ["AsyncRedisExactCache"]

_LIMITS = TimeLimits(connected=0.1, connecting=0.4)


class _Counters:
    """Lookups of one cache object, shared by its blocking and its async face."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.flaws: Counter[Flaw] = Counter()


class AsyncRedisExactCache(Core):
    """An exact cache in Redis: an answer is returned only to a request equal in every field.

    A request is the five documented arguments plus ``context``, a mapping of everything else that shapes the answer.
    What may be in a context, and what counts as equal, is told in `ractogateway.cache.fingerprint`. Empty strings are
    legal.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; None reads ``RACTOGATEWAY_REDIS_URL``, then
            takes ``redis://localhost:6379/0``.
        client: a ``redis.asyncio`` client to use instead, as it is. It is never closed.
        ttl_seconds: how long an entry lives, to the millisecond; None keeps it until it is evicted.
        key_prefix: what every key starts with.
        namespace: separates tenants under one prefix: nothing is shared between two namespaces.
        on_outage: without Redis, ``"miss"`` makes `get` miss and `put` do nothing, ``"raise"`` raises. Wrong passwords
            and the like are treated the same way. Both are counted, and logged once per change of state.
        compress_above_bytes: larger answers are compressed when that makes them smaller.
        compression: ``"zlib"``, or ``"zstd"`` with the extra of that name: smaller and faster. Entries by either are
            read, those by Zstandard only where the extra is installed: give it to every replica first.
        encryption: keys under which answers are kept. Entries in plain text are then misses.
        ttl_jitter: the part of each time to live that chance may take away, from 0 to less than 1: with 0.1, entries
            live for 90 to 100 % of theirs, so that those written together are not missed together.
        options: time limits and the like, with ``url`` only. A call takes at most 0.1 s, 0.4 s while it connects.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        client: AsyncClient | None = None,
        ttl_seconds: float | None = None,
        key_prefix: str = "ractogateway:exact",
        *,
        namespace: str = "",
        on_outage: CacheOutage = "miss",
        compress_above_bytes: int = 1024,
        compression: Compression = "zlib",
        encryption: Encryption | None = None,
        ttl_jitter: float = 0.0,
        options: RedisOptions | None = None,
    ) -> None:
        self._ttl_seconds = check_ttl("ttl_seconds", ttl_seconds)
        self._ttl_jitter = check_jitter("ttl_jitter", ttl_jitter)
        self._keys = CacheKeys.of(check_key_prefix(key_prefix), check_text("namespace", namespace))
        if on_outage not in ("miss", "raise"):
            raise InvalidValueError("on_outage must be 'miss' or 'raise'")
        self._raises = on_outage == "raise"
        envelopes = Envelopes(
            namespace_digest(key_prefix, namespace),
            self._keys.entry,
            compress_above_bytes=check_tokens("compress_above_bytes", compress_above_bytes, minimum=0),
            codec=codec_called(compression),
            encryption=check_encryption(encryption),
        )
        self._answers = SealedAnswers(envelopes)
        self._counters = _Counters()
        self._outage = OutageLog("exact cache", "lookups miss and answers are not stored")
        self._port = self._open_port(url, client, options, _LIMITS)

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
        """The stored answer, or None.

        A hit has ``cached`` set, zero ``usage`` (nothing was billed) and what the answer had cost as ``saved_usage``.
        """
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        sealed = await self._tolerantly(calls.read_answer(self._keys, key))
        response = None if sealed is None else self._opened(sealed, key)
        if response is None:
            self._counters.misses += 1
            return None
        self._counters.hits += 1
        return response

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
        """Store an answer, whatever the temperature; ``ttl_seconds`` overrides the cache's own for this entry.

        ``raw`` is not stored, and ``parsed`` comes back as plain JSON values. Which answers deserve to be stored is the
        caller's policy (`ractogateway.cache.is_storable`).
        """
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        ttl = self._ttl_seconds if ttl_seconds is None else check_ttl("ttl_seconds", ttl_seconds)
        sealed = self._answers.seal(response, key)
        call = calls.store_answer(
            self._keys,
            key,
            sealed,
            ttl_ms=None if ttl is None else milliseconds(jittered(ttl, self._ttl_jitter)),
            fresh_generation=os.urandom(16),
        )
        await self._tolerantly(call)

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
        """Forget one entry for all replicas; True if there was one. An outage raises, whatever ``on_outage`` says."""
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        return await self._port.run(calls.forget_answer(self._keys, key))

    async def clear(self) -> None:
        """Forget all entries of this prefix and namespace for all replicas, in constant time. An outage raises."""
        await self._port.run(calls.forget_all_answers(self._keys))

    async def size(self) -> int:
        """The number of live entries. An outage raises.

        Entries that the server evicted for want of memory count until they would have expired.
        """
        return await self._port.run(calls.count_answers(self._keys))

    async def stats(self) -> CacheStats:
        """Hits and misses of this object, and the number of live entries (None when Redis cannot say)."""
        began = self._outage.began()
        try:
            size = await self.size()
        except StoreError as error:
            self._outage.failed(error, began)
            size = None
        return CacheStats(hits=self._counters.hits, misses=self._counters.misses, size=size, errors=self._outage.errors)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ttl_seconds={self._ttl_seconds})"

    def _opened(self, sealed: bytes, key: bytes) -> LLMResponse | None:
        """The answer in an entry; None, and counted, where it is none for this request."""
        try:
            return self._answers.open(sealed, key)
        except BadEnvelope as bad:
            self._counters.flaws[bad.flaw] += 1
            return None

    def _share_state_of(self, other: AsyncRedisExactCache) -> None:
        self._counters, self._outage = other._counters, other._outage

    async def _tolerantly(self, call: Any) -> Any:
        """Run a call whose failure may cost a model call but never the request."""
        began = self._outage.began()
        try:
            reply = await self._port.run(call)
        except StoreError as error:
            if self._raises:
                raise
            self._outage.failed(error, began)
            return None
        self._outage.succeeded()
        return reply
