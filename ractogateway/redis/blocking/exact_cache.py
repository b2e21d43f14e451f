"""The exact cache for blocking callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from ractogateway.cache.protocol import CacheRequest, CacheStats
from ractogateway.messages import LLMResponse
from ractogateway.redis.blocking.face import Face
from ractogateway.redis.compression import Compression
from ractogateway.redis.config import CacheOutage, RedisOptions
from ractogateway.redis.encryption import Encryption
from ractogateway.redis.exact_cache import AsyncRedisExactCache
from ractogateway.redis.transport import BlockingClient, open_blocking_port, open_worker_port

__all__ = ["RedisExactCache"]


class _DrivenExactCache(AsyncRedisExactCache):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedExactCache(AsyncRedisExactCache):
    _open_port = staticmethod(open_worker_port)


class RedisExactCache(Face[AsyncRedisExactCache]):
    """An exact cache in Redis for blocking callers; a drop-in for `ractogateway.cache.ExactMatchCache`.

    See `AsyncRedisExactCache` for the arguments and the meaning of every method; ``client`` is a ``redis.Redis`` here.
    """

    _driven = _DrivenExactCache
    _awaited = _AwaitedExactCache

    def __init__(
        self,
        url: str | None = None,
        client: BlockingClient | None = None,
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
        super().__init__(
            url,
            client,
            ttl_seconds=ttl_seconds,
            key_prefix=key_prefix,
            namespace=namespace,
            on_outage=on_outage,
            near_cache_entries=near_cache_entries,
            compress_above_bytes=compress_above_bytes,
            compression=compression,
            encryption=encryption,
            ttl_jitter=ttl_jitter,
            early_refresh=early_refresh,
            stale_seconds=stale_seconds,
            max_wait_seconds=max_wait_seconds,
            options=options,
        )

    def get(
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
        return self._run(self._core.get(user_message, system_prompt, model, temperature, max_tokens, context=context))

    def get_many(self, requests: Iterable[CacheRequest | tuple[Any, ...]]) -> list[LLMResponse | None]:
        """The stored answers, or None, in the order of the requests."""
        return self._run(self._core.get_many(requests))

    def put(
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
        """Store an answer; ``ttl_seconds`` overrides the cache's own for this entry."""
        self._run(
            self._core.put(
                user_message,
                system_prompt,
                model,
                temperature,
                max_tokens,
                response,
                context=context,
                ttl_seconds=ttl_seconds,
                tags=tags,
            )
        )

    def put_many(
        self,
        items: Iterable[tuple[CacheRequest | tuple[Any, ...], LLMResponse]],
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Store several answers, each with its request."""
        self._run(self._core.put_many(items, ttl_seconds=ttl_seconds, tags=tags))

    def get_or_compute(
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
        """The stored answer, or the one that ``compute`` returns, which is then stored for all; a blocking function
        here, called in this thread.
        """
        return self._run(
            self._core.get_or_compute(
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
        )

    def invalidate(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """Forget one entry for all replicas; True if there was one."""
        return self._run(
            self._core.invalidate(user_message, system_prompt, model, temperature, max_tokens, context=context)
        )

    def invalidate_tag(self, tag: str) -> None:
        """Forget all entries that were stored with this tag, for all replicas."""
        self._run(self._core.invalidate_tag(tag))

    def clear(self) -> None:
        """Forget all entries of this prefix and namespace for all replicas, in constant time."""
        self._run(self._core.clear())

    @property
    def stats(self) -> CacheStats:
        """What this object and the fleet have counted, and the number of live entries."""
        return self._run(self._core.stats())

    def __len__(self) -> int:
        return self._run(self._core.size())

    def __bool__(self) -> bool:
        # An empty cache is still a cache: `cache or default` must not ask the network, nor drop it.
        return True
