"""The blocking faces: the async cores, driven in the calling thread, under the documented names.

Each method is one line: the logic is the core's. ``aio`` is the same tool for ``await``: the same server, settings and
counters.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

from ractogateway.cache.protocol import CacheStats
from ractogateway.messages import LLMResponse, Message
from ractogateway.redis._blocking_in_loop import check_running_loop
from ractogateway.redis.chat_memory import AsyncRedisChatMemory
from ractogateway.redis.config import (
    CacheOutage,
    ChatMemoryConfig,
    LimiterOutage,
    RateLimitConfig,
    RateLimitDecision,
    RedisOptions,
)
from ractogateway.redis.exact_cache import AsyncRedisExactCache
from ractogateway.redis.rate_limiter import AsyncRedisRateLimiter
from ractogateway.redis.transport import BlockingClient, drive, open_blocking_port, open_worker_port

__all__ = ["RedisChatMemory", "RedisExactCache", "RedisRateLimiter"]

Core = TypeVar("Core", AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory)
T = TypeVar("T")


class _Face(Generic[Core]):
    """A core behind blocking methods, and its awaitable twin."""

    _driven: type[Core]
    _awaited: type[Core]

    def __init__(self, url: str | None, client: Any, **settings: Any) -> None:
        self._core: Core = self._driven(url, client, **settings)
        self._arguments = (url, client, settings)

    @cached_property
    def aio(self) -> Core:
        """The same tool for ``await``, from any event loop; calls over a given blocking client use worker threads."""
        url, client, settings = self._arguments
        twin: Core = self._awaited(url, client, **settings)
        twin._share_state_of(self._core)  # noqa: SLF001 - the two are one object to the user
        return twin

    def close(self) -> None:
        """Close the connection, unless another object shares it; a given client stays open.

        The object stays usable, and closing is never needed: a forgotten object's connection ends after a grace.
        """
        self._run(self._core.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._core).replace(type(self._core).__name__, type(self).__name__, 1)

    @staticmethod
    def _run(coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            check_running_loop()
        except BaseException:
            coroutine.close()
            raise
        return drive(coroutine)


class _DrivenExactCache(AsyncRedisExactCache):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedExactCache(AsyncRedisExactCache):
    _open_port = staticmethod(open_worker_port)


class RedisExactCache(_Face[AsyncRedisExactCache]):
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
        compress_above_bytes: int = 1024,
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(
            url,
            client,
            ttl_seconds=ttl_seconds,
            key_prefix=key_prefix,
            namespace=namespace,
            on_outage=on_outage,
            compress_above_bytes=compress_above_bytes,
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

    def clear(self) -> None:
        """Forget all entries of this prefix and namespace for all replicas, in constant time."""
        self._run(self._core.clear())

    @property
    def stats(self) -> CacheStats:
        """Hits and misses of this object, and the number of live entries."""
        return self._run(self._core.stats())

    def __len__(self) -> int:
        return self._run(self._core.size())

    def __bool__(self) -> bool:
        # An empty cache is still a cache: `cache or default` must not ask the network, nor drop it.
        return True


class _DrivenRateLimiter(AsyncRedisRateLimiter):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedRateLimiter(AsyncRedisRateLimiter):
    _open_port = staticmethod(open_worker_port)


class RedisRateLimiter(_Face[AsyncRedisRateLimiter]):
    """A sliding-window token budget per user for blocking callers.

    See `AsyncRedisRateLimiter` for the arguments and the meaning of every method; ``client`` is a ``redis.Redis`` here.
    """

    _driven = _DrivenRateLimiter
    _awaited = _AwaitedRateLimiter

    def __init__(
        self,
        url: str | None = None,
        client: BlockingClient | None = None,
        config: RateLimitConfig | None = None,
        *,
        on_outage: LimiterOutage = "local",
        local_share: float = 1.0,
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(url, client, config=config, on_outage=on_outage, local_share=local_share, options=options)

    def check_and_consume(self, user_id: str, tokens: int = 1) -> bool:
        """Charge ``tokens`` if the user's budget allows; whether it did."""
        return self._run(self._core.check_and_consume(user_id, tokens))

    def consume(self, user_id: str, tokens: int = 1, *, request_id: str | None = None) -> RateLimitDecision:
        """Charge ``tokens`` if the user's budget allows, all or nothing."""
        return self._run(self._core.consume(user_id, tokens, request_id=request_id))

    def peek(self, user_id: str, tokens: int = 0) -> RateLimitDecision:
        """What `consume` would decide now; charges nothing."""
        return self._run(self._core.peek(user_id, tokens))

    def get_remaining(self, user_id: str) -> int:
        """Tokens that the user could spend now."""
        return self._run(self._core.get_remaining(user_id))

    def reset(self, user_id: str) -> None:
        """Give the user the whole budget back."""
        self._run(self._core.reset(user_id))


class _DrivenChatMemory(AsyncRedisChatMemory):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedChatMemory(AsyncRedisChatMemory):
    _open_port = staticmethod(open_worker_port)


class RedisChatMemory(_Face[AsyncRedisChatMemory]):
    """Bounded conversations in Redis for blocking callers.

    See `AsyncRedisChatMemory` for the arguments and the meaning of every method; ``client`` is a ``redis.Redis`` here.
    """

    _driven = _DrivenChatMemory
    _awaited = _AwaitedChatMemory

    def __init__(
        self,
        url: str | None = None,
        client: BlockingClient | None = None,
        config: ChatMemoryConfig | None = None,
        *,
        namespace: str = "",
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(url, client, config=config, namespace=namespace, options=options)

    def append(
        self,
        conversation_id: str,
        role: str,
        content: str | list[dict[str, Any]] | None,
        *,
        request_id: str | None = None,
    ) -> int:
        """Append one message, trim, and start the time to live anew; the new revision."""
        return self._run(self._core.append(conversation_id, role, content, request_id=request_id))

    def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none; the new revision."""
        return self._run(
            self._core.extend(conversation_id, messages, request_id=request_id, expected_revision=expected_revision)
        )

    def get_history(self, conversation_id: str) -> list[dict[str, Any]]:
        """The messages, oldest first, pinned ones before all others."""
        return self._run(self._core.get_history(conversation_id))

    def count(self, conversation_id: str) -> int:
        """The number of messages kept."""
        return self._run(self._core.count(conversation_id))

    def clear(self, conversation_id: str, *, expected_revision: int | None = None) -> None:
        """Delete the messages."""
        self._run(self._core.clear(conversation_id, expected_revision=expected_revision))
