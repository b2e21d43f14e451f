"""An exact response cache that all replicas share: the async core."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Self, TypeVar

from ractogateway._checks import check_key_prefix, check_temperature, check_text, check_tokens
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.protocol import CacheCounters, CacheRequest, CacheStats
from ractogateway.errors import InvalidTypeError, InvalidValueError, StoreError, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis._cache.answers import SealedAnswers
from ractogateway.redis._cache.checks import (
    check_strength,
    check_wait,
    checked_items,
    checked_requests,
    life_of,
    life_with,
    tag_id_of,
    tag_ids_of,
)
from ractogateway.redis._cache.computing import Computations
from ractogateway.redis._cache.counts import Counts
from ractogateway.redis._cache.flights import FlightTable, Lookups, Question
from ractogateway.redis._cache.near import NearCache
from ractogateway.redis._cache.store import AnswerStore
from ractogateway.redis._core import Core
from ractogateway.redis.compression import Compression, codec_called
from ractogateway.redis.config import CacheOutage, RedisOptions
from ractogateway.redis.encryption import Encryption, check_encryption
from ractogateway.redis.envelope import Envelopes
from ractogateway.redis.keys import CacheBuckets, namespace_digest
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.transport import AsyncClient, TimeLimits, open_tracked_port

__all__ = ["AsyncRedisExactCache"]

T = TypeVar("T")

_LIMITS = TimeLimits(connected=0.1, connecting=0.4)


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
        compress_above_bytes: larger answers are compressed when that makes them smaller. Opening a compressed answer
            of 1 KB by zlib takes a quarter of a whole hit, to save half a kilobyte.
        compression: ``"zlib"``, or ``"zstd"`` with the extra of that name: smaller and faster. Entries by either are
            read, those by Zstandard only where the extra is installed: give it to every replica first.
        encryption: keys under which answers are kept. Entries in plain text are then misses.
        ttl_jitter: the part of each time to live that chance may take away, from 0 to less than 1: with 0.1, entries
            live for 90 to 100 % of theirs, so that those written together are not missed together.
        near_cache_entries: so many answers are kept in this process, too (for each event loop), least recently used out
            first. A copy is never served after its invalidation was received or a write of this process has returned,
            nor beyond its time to live. 0 keeps none; with ``client=`` there are none.
        early_refresh: an answer that `get_or_compute` finds close to its end is now and then computed anew while the
            stored one is returned, so that no crowd waits when it ends: the sooner, the longer computing it takes. 1.0
            is the usual strength; None waits for the end.
        stale_seconds: for so long after its end an answer still serves `get_or_compute`, while one process in the fleet
            computes a new one, in a task (a loop that ends meanwhile ends it, too) or for blocking callers in a thread.
            `get` never returns such an answer.
        max_wait_seconds: for so long `get_or_compute` waits for others' computations before it makes a call of its own.
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
        near_cache_entries: int = 0,
        compress_above_bytes: int = 2048,
        compression: Compression = "zlib",
        encryption: Encryption | None = None,
        ttl_jitter: float = 0.0,
        early_refresh: float | None = None,
        stale_seconds: float | None = None,
        max_wait_seconds: float = 60.0,
        options: RedisOptions | None = None,
    ) -> None:
        self._life = life_of(ttl_seconds, stale_seconds, ttl_jitter)
        if on_outage not in ("miss", "raise"):
            raise InvalidValueError("on_outage must be 'miss' or 'raise'")
        self._raises = on_outage == "raise"
        self._early = check_strength("early_refresh", early_refresh)
        self._max_wait_seconds = check_wait("max_wait_seconds", max_wait_seconds)
        near_entries = check_tokens("near_cache_entries", near_cache_entries, minimum=0)
        if near_entries and client is not None:
            raise InvalidValueError("near_cache_entries goes with url=: a given client's connections are not ours")
        owner = check_key_prefix(key_prefix), check_text("namespace", namespace)
        sealing: dict[str, Any] = {
            "compress_above_bytes": check_tokens("compress_above_bytes", compress_above_bytes, minimum=0),
            "codec": codec_called(compression),
            "encryption": check_encryption(encryption),
        }
        self._port = self._open_port(url, client, options, _LIMITS)
        self._buckets = CacheBuckets(*owner, spread=self._port.is_cluster)
        envelopes = Envelopes(namespace_digest(*owner), self._buckets.entry, **sealing)
        self._tracked = open_tracked_port(self._port) if client is None else None
        near = NearCache(self._tracked, near_entries) if near_entries and self._tracked is not None else None
        self._counts = Counts()
        self._store = AnswerStore(self._port, self._buckets, SealedAnswers(envelopes), self._counts, near)
        self._outage = OutageLog("exact cache", "lookups miss and answers are not stored")
        self._flights = FlightTable()
        self._arrange()

    def _arrange(self) -> None:
        self._computations = Computations(
            self._port,
            self._store,
            Lookups(self._port, None if self._port.is_cluster else self._tracked, self._flights),
            self._counts,
            self._outage,
            early=self._early,
            max_wait_seconds=self._max_wait_seconds,
            raises=self._raises,
        )

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
        near = self._store.near
        name = fingerprint if near is None else near.name
        key = name(user_message, system_prompt, model, temperature, max_tokens, context)
        response = None if near is None else near.find(key)
        if response is None:
            # As `_tolerantly` does; spelled out, for this is the path that has to be short.
            began = self._outage.began()
            try:
                response = await self._store.read(key)
            except StoreError as error:
                if self._raises:
                    raise
                self._failed(error, began)
                self._counted(None)
                return None
            self._outage.succeeded()
        self._counted(response)
        if self._counts.due:
            self._tell_soon()
        return response

    async def get_many(self, requests: Iterable[CacheRequest | tuple[Any, ...]]) -> list[LLMResponse | None]:
        """The stored answers, or None, in the order of the requests: one round trip, with ``client=`` of a cluster one
        for each of its nodes' buckets.
        """
        keys = [fingerprint(*request) for request in checked_requests(requests)]
        found: list[LLMResponse | None] = [None] * len(keys)
        answers = await self._tolerantly(self._store.read_many(keys), found)
        for answer in answers:
            self._counted(answer)
        return answers

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
        tags: Iterable[str] = (),
    ) -> None:
        """Store an answer, whatever the temperature; ``ttl_seconds`` overrides the cache's own for this entry.

        `invalidate_tag` of one of the ``tags`` (64 at most) forgets it. A computation of the same answer that is under
        way does not replace it. ``raw`` is not stored, and ``parsed`` comes back as plain JSON values. Which answers
        deserve to be stored is the caller's policy (`ractogateway.cache.is_storable`).
        """
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        life, tag_ids = life_with(self._life, ttl_seconds), tag_ids_of(tags)
        envelope = self._store.seal(response, key)
        await self._tolerantly(self._store.write(key, envelope, life, tag_ids), False)
        self._flights.forget(key)

    async def put_many(
        self,
        items: Iterable[tuple[CacheRequest | tuple[Any, ...], LLMResponse]],
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Store several answers, each with its request: one round trip; with ``client=`` one for each."""
        life, tag_ids = life_with(self._life, ttl_seconds), tag_ids_of(tags)
        envelopes = {}
        for request, response in checked_items(items):
            key = fingerprint(*request)
            envelopes[key] = self._store.seal(response, key)
        await self._tolerantly(self._store.write_many(envelopes, life, tag_ids), None)
        if envelopes:
            self._flights.forget(*envelopes)

    async def get_or_compute(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        compute: Callable[[], LLMResponse | Awaitable[LLMResponse]],
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        max_temperature: float = 0.0,
    ) -> LLMResponse:
        """The stored answer, or the one that ``compute`` returns, which is then stored for all.

        Of all callers in the fleet who ask for an answer that is not there, one computes, and the others wait for it.
        If its computation fails, is cancelled, dies, or returns an answer that is not storable (`is_storable`: cut
        short, filtered, empty), the next one computes. An error goes to the caller whose ``compute`` raised it and to
        nobody else. `invalidate`, `clear` and `invalidate_tag` win over computations under way: their answers go to
        those who had asked before, are not stored, and later calls compute anew. Above ``max_temperature`` every caller
        that finds no stored answer computes its own, and stores nothing.

        The entry carries the ``tags`` of the caller that computes it, and nobody else's: give equal requests equal
        tags.

        A ``compute`` that asks for its own answer makes a call of its own below. It is told by its context: a thread
        of a plain executor does not have it, and waits for ``max_wait_seconds``, as do two computations that ask for
        each other's answers.

        ``compute`` takes nothing: a coroutine function, or a blocking one, which runs in a worker thread. It runs in
        the context of the caller, and goes on if that is cancelled while others wait.

        An answer of somebody else's computation is marked ``cached`` like a stored one. The caller's own is returned as
        it came, whatever happens to Redis.
        """
        response, stored = await self.get_or_compute_ahead(
            user_message,
            system_prompt,
            model,
            temperature,
            max_tokens,
            compute,
            context=context,
            ttl_seconds=ttl_seconds,
            tags=tags,
            max_temperature=max_temperature,
        )
        if stored is not None:
            await stored()
        return response

    async def get_or_compute_ahead(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        compute: Callable[[], LLMResponse | Awaitable[LLMResponse]],
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        max_temperature: float = 0.0,
    ) -> tuple[LLMResponse, Callable[[], Awaitable[None]] | None]:
        """`get_or_compute` for a caller who has something else to do while its answer is being stored.

        Returns:
            The answer, as soon as it is there. With one that this caller has computed, a function to be awaited: until
            the answer is stored, or that has failed, which is counted and logged as always. Storing goes on whether
            anybody awaits it or not. None where there is nothing to wait for.
        """
        key = fingerprint(user_message, system_prompt, model, temperature, max_tokens, context)
        if not callable(compute):
            raise InvalidTypeError(f"compute must be callable, not {type(compute).__name__}")
        question = Question(
            keys=self._buckets.of(key),
            fingerprint=key,
            tags=tag_ids_of(tags),
            temperature=temperature,
            max_temperature=check_temperature(max_temperature, "max_temperature"),
            life=life_with(self._life, ttl_seconds),
            compute=compute,
        )
        response, storing = await self._computations.answer(question)
        if self._counts.due:
            self._tell_soon()
        return response, None if storing is None else partial(self._computations.stored, storing)

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
        forgotten = await self._store.forget(key)
        self._flights.forget(key)
        return forgotten

    async def invalidate_tag(self, tag: str) -> None:
        """Forget all entries that were stored with this tag, for all replicas. An outage raises.

        They are misses at once; then, in slices, they are deleted and counted no more.
        """
        tag_id = tag_id_of(tag)
        await self._store.forget_tag(tag_id)
        self._flights.forget()
        await self._store.bury_tagged(tag_id)

    async def clear(self) -> None:
        """Forget all entries of this prefix and namespace for all replicas, in constant time. An outage raises."""
        await self._store.forget_all()
        self._flights.forget()

    async def size(self) -> int:
        """The number of live entries. An outage raises.

        Entries that the server evicted for want of memory count until they would have expired.
        """
        return await self._store.size()

    async def stats(self) -> CacheStats:
        """What this object has counted, what the fleet has, and the number of live entries.

        The fleet's numbers lack what others have counted in the last half minute.
        """
        await self._tell_the_fleet()
        size, fleet = None, None
        began = self._outage.began()
        try:
            size = await self._store.size()
            fleet = CacheCounters(**await self._store.read_counts())
        except StoreError as error:
            self._failed(error, began)
        return CacheStats(**self._counts.read().model_dump(), size=size, fleet=fleet)

    async def aclose(self) -> None:
        """Tell the fleet what was counted, and close the connection, unless another object shares it.

        The object stays usable; closing is never needed.
        """
        await self._tell_the_fleet()
        if self._tracked is not None:
            await self._tracked.aclose()
        await super().aclose()

    def __repr__(self) -> str:
        ttl_ms = self._life.ttl_ms
        return f"{type(self).__name__}(ttl_seconds={None if ttl_ms is None else ttl_ms / 1000})"

    def _share_state_of(self, other: Self) -> None:
        self._counts, self._outage, self._flights = other._counts, other._outage, other._flights
        self._store.count_in(other._counts)
        self._arrange()

    async def _tolerantly(self, work: Coroutine[Any, Any, T], otherwise: T) -> T:
        """Do what may cost a model call when it fails, but never the request."""
        began = self._outage.began()
        try:
            result = await work
        except StoreError as error:
            if self._raises:
                raise
            self._failed(error, began)
            return otherwise
        self._outage.succeeded()
        return result

    def _failed(self, error: StoreError, began: int) -> None:
        self._outage.failed(error, began)
        self._counts.add("errors")

    def _counted(self, response: LLMResponse | None) -> None:
        if response is None:
            self._counts.add("misses")
        else:
            saved = response.saved_usage
            self._counts.add("hits", saved.total_tokens if saved is not None else 0)

    async def _tell_the_fleet(self) -> None:
        """Add what this object has counted to the counters that all replicas share, by one command."""
        if news := self._counts.take_untold():
            await self._tell(news)

    def _tell_soon(self) -> None:
        # In the background: a caller has paid its time limit for its own call.
        if news := self._counts.take_untold():
            self._port.background(self._tell(news))

    async def _tell(self, news: dict[str, int]) -> None:
        try:
            await self._store.add_counts(news)
        except StoreUnavailable as error:
            if not error.may_have_applied:
                self._counts.put_back(news)
        except StoreError:
            self._counts.put_back(news)
