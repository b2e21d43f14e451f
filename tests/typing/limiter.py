"""What type checkers make of the rate limiter. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

import redis
import redis.asyncio

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import (
    AsyncRedisRateLimiter,
    AsyncReservation,
    BudgetLeases,
    PendingReservation,
    RateLimitCharge,
    RateLimitConfig,
    RateLimitDecision,
    RateLimitParent,
    RedisOptions,
    RedisRateLimiter,
    Reservation,
)

CONFIG = RateLimitConfig(max_tokens_per_minute=5_000, window_seconds=60.0, key_prefix="app")
MANY = RateLimitConfig(max_requests_per_minute=60, max_tokens_per_day=1_000_000, max_concurrent=4)
PARENTS: list[str | RateLimitParent] = ["org", RateLimitParent("model", CONFIG)]


def ways_to_redis() -> None:
    RedisRateLimiter()
    RedisRateLimiter(url="redis://localhost:6379/0", config=CONFIG, options=RedisOptions(connect_timeout_seconds=1))
    RedisRateLimiter(client=redis.Redis(), on_outage="local", local_share=0.25)
    AsyncRedisRateLimiter(client=redis.asyncio.Redis(), on_outage="deny", budget_leases=BudgetLeases(share=0.1))


def blocking(limiter: RedisRateLimiter) -> None:
    assert_type(limiter.check_and_consume("u-42"), bool)
    assert_type(limiter.check_and_consume(user_id="u-42", tokens=200), bool)
    assert_type(limiter.consume("u-42", 200, request_id="r"), RateLimitDecision)
    assert_type(limiter.peek("u-42", tokens=0), RateLimitDecision)
    assert_type(limiter.get_remaining("u-42"), int)
    assert_type(limiter.reset("u-42"), None)
    assert_type(limiter.aio, AsyncRedisRateLimiter)
    assert_type(limiter.consume("u-42", parents=PARENTS), RateLimitDecision)
    assert_type(limiter.consume_many([("u-42", 1), RateLimitCharge("u-43")]), list[RateLimitDecision])
    assert_type(limiter.wait("u-42", 200, timeout_seconds=5), RateLimitDecision)
    assert_type(limiter.reserve("u-42", 200), Reservation)
    with limiter.reserve("u-42", 200, request_id="r", parents=("org",), lease_seconds=30) as reservation:
        assert_type(reservation, Reservation)
        assert_type(reservation.decision, RateLimitDecision)
        assert_type((reservation.settle(100), reservation.cancel(), reservation.slot_lost), tuple[bool, bool, bool])
    with limiter as same:
        assert_type(same, RedisRateLimiter)


async def awaited(limiter: AsyncRedisRateLimiter) -> None:
    assert_type(await limiter.check_and_consume(user_id="u-42", tokens=200), bool)
    assert_type(await limiter.consume("u-42", 200, request_id=None), RateLimitDecision)
    assert_type(await limiter.peek("u-42"), RateLimitDecision)
    assert_type(await limiter.get_remaining("u-42"), int)
    assert_type(await limiter.reset("u-42"), None)
    assert_type(await limiter.consume("u-42", parents=PARENTS), RateLimitDecision)
    assert_type(await limiter.consume_many([("u-42", 1), RateLimitCharge("u-43")]), list[RateLimitDecision])
    assert_type(await limiter.wait("u-42", 200, timeout_seconds=5), RateLimitDecision)
    assert_type(limiter.reserve("u-42", 200), PendingReservation)
    assert_type(await limiter.reserve("u-42", 200), AsyncReservation)
    async with limiter.reserve("u-42", 200, request_id="r", parents=("org",), lease_seconds=30) as reservation:
        assert_type(reservation, AsyncReservation)
        assert_type((await reservation.settle(100), await reservation.cancel()), tuple[bool, bool])
    async with limiter as same:
        assert_type(same, AsyncRedisRateLimiter)


def values(decision: RateLimitDecision, refusal: RateLimitExceeded) -> None:
    assert_type((decision.allowed, decision.degraded), tuple[bool, bool])
    assert_type((decision.limit, decision.remaining), tuple[int, int])
    assert_type((decision.retry_after_seconds, decision.reset_after_seconds), tuple[float, float])
    assert_type(decision.violated, str | None)
    assert_type(refusal.decision, RateLimitDecision)


async def not_awaited(limiter: AsyncRedisRateLimiter) -> None:
    if await limiter.reserve("u-42", 1):
        return
    if limiter.reserve("u-42", 1):  # pyright: ignore[reportGeneralTypeIssues]
        return


# Both checkers complain of an ignore that nothing needs, so each of these lines is known to be refused.
def wrong_on_purpose(limiter: RedisRateLimiter, decision: RateLimitDecision) -> None:
    limiter.check_and_consume(42)  # type: ignore[arg-type]
    limiter.check_and_consume("u-42", 1.5)  # type: ignore[arg-type]
    RedisRateLimiter(on_outage="open")  # type: ignore[arg-type]
    decision.allowed = True  # type: ignore[misc]
