"""What type checkers make of the caches. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, assert_type

import fakeredis
import redis
import redis.asyncio

from ractogateway import LLMResponse, RactoGatewayError
from ractogateway.cache import (
    AsyncExactMatchCache,
    CacheCounters,
    CacheRequest,
    CacheStats,
    ComputingCache,
    ExactCache,
    ExactMatchCache,
    fingerprint,
    is_storable,
)
from ractogateway.messages import FinishReason, ToolCall, Usage
from ractogateway.redis import AsyncRedisExactCache, Encryption, RedisExactCache, RedisOptions

CONTEXT: Mapping[str, Any] = {"history": [{"role": "user", "content": "Hello!"}]}


def either_is_an_exact_cache(answer: LLMResponse) -> None:
    in_process: ExactCache = ExactMatchCache(max_size=1024, ttl_seconds=60)
    shared: ExactCache = RedisExactCache()
    for cache in (in_process, shared):
        assert_type(cache.get("q", "", "m", 0.0, 1), LLMResponse | None)
        assert_type(cache.put("q", "", "m", 0, 1, answer, context=CONTEXT, ttl_seconds=0.5), None)
        assert_type(cache.invalidate("q", "", "m", 0.0, 1, context=None), bool)
        assert_type(cache.clear(), None)
        assert_type(cache.stats, CacheStats)
        assert_type(len(cache), int)


async def computing(answer: LLMResponse) -> None:
    in_process = ExactMatchCache()
    cache: ComputingCache = in_process
    shared: ComputingCache = RedisExactCache()
    shared.get_or_compute("q", "", "m", 0.0, 1, lambda: answer, ttl_seconds=60, max_temperature=1.0)
    assert_type(cache.get_or_compute("q", "", "m", 0.0, 1, lambda: answer, context=CONTEXT), LLMResponse)

    async def compute() -> LLMResponse:
        return answer

    assert_type(in_process.aio, AsyncExactMatchCache)
    assert_type(await in_process.aio.get("q", "", "m", 0.0, 1), LLMResponse | None)
    assert_type(await in_process.aio.get_or_compute("q", "", "m", 0.0, 1, compute, max_temperature=0.5), LLMResponse)
    in_process.get_or_compute("q", "", "m", 0.0, 1, compute)  # type: ignore[arg-type]
    told, stored = await AsyncRedisExactCache().get_or_compute_ahead("q", "", "m", 0.0, 1, compute)
    assert_type(told, LLMResponse)
    assert_type(stored, Callable[[], Awaitable[None]] | None)


def ways_to_redis() -> None:
    RedisExactCache("redis://localhost:6379/0")
    RedisExactCache(url="rediss://localhost", ttl_seconds=3600, key_prefix="app", namespace="tenant")
    RedisExactCache(url=None, on_outage="raise", compress_above_bytes=0, options=RedisOptions(timeout_seconds=0.2))
    RedisExactCache(compression="zstd", encryption=Encryption({"2025": bytes(32)}, current="2025"))
    RedisExactCache(near_cache_entries=1000, early_refresh=1.0, stale_seconds=30, max_wait_seconds=10.0)
    RedisExactCache(client=redis.Redis())
    RedisExactCache(client=redis.Redis(decode_responses=True))
    RedisExactCache(client=fakeredis.FakeRedis())
    AsyncRedisExactCache(client=redis.asyncio.Redis())
    AsyncRedisExactCache(client=redis.asyncio.Redis.from_url("redis://localhost", decode_responses=True))


def computed() -> LLMResponse:
    return LLMResponse(content="answer")


async def computed_later() -> LLMResponse:
    return LLMResponse(content="answer")


def many_and_computed(cache: RedisExactCache, answer: LLMResponse) -> None:
    request = CacheRequest("q", "", "m", 0.0, 1, CONTEXT)
    assert_type(cache.get_many([request, ("q", "", "m", 0.0, 1)]), list[LLMResponse | None])
    assert_type(cache.put_many([(request, answer), (("q", "", "m", 0, 1), answer)], tags=["t"]), None)
    assert_type(cache.put("q", "", "m", 0, 1, answer, tags={"t"}), None)
    assert_type(cache.get_or_compute("q", "", "m", 0.0, 1, computed, context=CONTEXT, tags=("t",)), LLMResponse)
    assert_type(cache.get_or_compute("q", "", "m", 0.0, 1, lambda: answer, ttl_seconds=5), LLMResponse)
    assert_type(cache.invalidate_tag("t"), None)
    assert_type(cache.stats.fleet, CacheCounters | None)
    assert_type(cache.stats.saved_tokens, int)
    cache.get_or_compute("q", "", "m", 0.0, 1, lambda: "text")  # type: ignore[arg-type, return-value]
    cache.get_or_compute("q", "", "m", 0.0, 1, answer)  # type: ignore[arg-type]


async def many_and_computed_async(cache: AsyncRedisExactCache, answer: LLMResponse) -> None:
    assert_type(await cache.get_or_compute("q", "", "m", 0.0, 1, computed_later), LLMResponse)
    assert_type(await cache.get_or_compute("q", "", "m", 0.0, 1, computed, tags=["t"]), LLMResponse)
    assert_type(await cache.get_many([CacheRequest("q", "", "m", 0.0, 1)]), list[LLMResponse | None])
    assert_type((await cache.stats()).fleet, CacheCounters | None)


def blocking(cache: RedisExactCache) -> None:
    assert_type(cache.aio, AsyncRedisExactCache)
    with cache as same:
        assert_type(same, RedisExactCache)
    assert_type(cache.close(), None)


async def awaited(cache: AsyncRedisExactCache, answer: LLMResponse) -> None:
    assert_type(await cache.get("q", "", "m", 0.0, 1, context=CONTEXT), LLMResponse | None)
    assert_type(await cache.put("q", "", "m", 0.0, 1, answer, ttl_seconds=60), None)
    assert_type(await cache.invalidate("q", "", "m", 0.0, 1), bool)
    assert_type(await cache.clear(), None)
    assert_type(await cache.stats(), CacheStats)
    assert_type(await cache.size(), int)
    async with cache as same:
        assert_type(same, AsyncRedisExactCache)
    assert_type(await cache.aclose(), None)


def values(stats: CacheStats, answer: LLMResponse) -> None:
    assert_type((stats.hits, stats.misses, stats.total, stats.errors), tuple[int, int, int, int])
    assert_type(stats.size, int | None)
    assert_type(stats.hit_rate, float)
    assert_type(answer.content, str | None)
    assert_type(answer.tool_calls, list[ToolCall])
    assert_type(answer.finish_reason, FinishReason)
    assert_type(answer.usage, Usage)
    assert_type(answer.saved_usage, Usage | None)
    assert_type(answer.cached, bool)


def policy(answer: LLMResponse) -> None:
    assert_type(fingerprint("q", "", "m", 0.0, 1, CONTEXT), bytes)
    assert_type(is_storable(answer, temperature=0.0), bool)


# Both checkers complain of an ignore that nothing needs, so each of these lines is known to be refused.
def wrong_on_purpose(cache: RedisExactCache, core: AsyncRedisExactCache) -> None:
    cache.get(b"q", "", "m", 0.0, 1)  # type: ignore[arg-type]
    cache.put("q", "", "m", 0.0, 1, "answer")  # type: ignore[arg-type]
    RedisExactCache(on_outage="ignore")  # type: ignore[arg-type]
    RedisExactCache(client=redis.asyncio.Redis())  # type: ignore[arg-type]
    AsyncRedisExactCache(client=redis.Redis())  # type: ignore[arg-type]
    len(core)  # type: ignore[arg-type]


def errors(error: RactoGatewayError) -> Exception:
    return error
