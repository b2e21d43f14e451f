"""What type checkers make of the rate limiter. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

import redis
import redis.asyncio

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import (
    AsyncRedisRateLimiter,
    RateLimitConfig,
    RateLimitDecision,
    RedisOptions,
    RedisRateLimiter,
)

CONFIG = RateLimitConfig(max_tokens_per_minute=5_000, window_seconds=60.0, key_prefix="app")


def ways_to_redis() -> None:
    RedisRateLimiter()
    RedisRateLimiter(url="redis://localhost:6379/0", config=CONFIG, options=RedisOptions(connect_timeout_seconds=1))
    RedisRateLimiter(client=redis.Redis(), on_outage="local", local_share=0.25)
    AsyncRedisRateLimiter(client=redis.asyncio.Redis(), on_outage="deny")


def blocking(limiter: RedisRateLimiter) -> None:
    assert_type(limiter.check_and_consume("u-42"), bool)
    assert_type(limiter.check_and_consume(user_id="u-42", tokens=200), bool)
    assert_type(limiter.consume("u-42", 200, request_id="r"), RateLimitDecision)
    assert_type(limiter.peek("u-42", tokens=0), RateLimitDecision)
    assert_type(limiter.get_remaining("u-42"), int)
    assert_type(limiter.reset("u-42"), None)
    assert_type(limiter.aio, AsyncRedisRateLimiter)
    with limiter as same:
        assert_type(same, RedisRateLimiter)


async def awaited(limiter: AsyncRedisRateLimiter) -> None:
    assert_type(await limiter.check_and_consume(user_id="u-42", tokens=200), bool)
    assert_type(await limiter.consume("u-42", 200, request_id=None), RateLimitDecision)
    assert_type(await limiter.peek("u-42"), RateLimitDecision)
    assert_type(await limiter.get_remaining("u-42"), int)
    assert_type(await limiter.reset("u-42"), None)
    async with limiter as same:
        assert_type(same, AsyncRedisRateLimiter)


def values(decision: RateLimitDecision, refusal: RateLimitExceeded) -> None:
    assert_type((decision.allowed, decision.degraded), tuple[bool, bool])
    assert_type((decision.limit, decision.remaining), tuple[int, int])
    assert_type((decision.retry_after_seconds, decision.reset_after_seconds), tuple[float, float])
    assert_type(decision.violated, str | None)
    assert_type(refusal.decision, RateLimitDecision)


# Both checkers complain of an ignore that nothing needs, so each of these lines is known to be refused.
def wrong_on_purpose(limiter: RedisRateLimiter, decision: RateLimitDecision) -> None:
    limiter.check_and_consume(42)  # type: ignore[arg-type]
    limiter.check_and_consume("u-42", 1.5)  # type: ignore[arg-type]
    RedisRateLimiter(on_outage="open")  # type: ignore[arg-type]
    decision.allowed = True  # type: ignore[misc]
