"""Three tools that every replica of an LLM service shares, kept in Redis: an exact response cache, a token-budget rate
limiter and a bounded chat memory.

Each is one async core (``Async…``) and a blocking face with the same methods; ``face.aio`` is its async core. A tool is
loaded when it is first named; the way to Redis, which all of them need, at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ractogateway._lazy import lazily
from ractogateway.redis import transport as _transport  # noqa: F401 - says at once which extra is missing

if TYPE_CHECKING:
    from ractogateway.cache.protocol import CacheRequest
    from ractogateway.redis._limiter.reservations import AsyncReservation, PendingReservation
    from ractogateway.redis._memory.values import ConversationChanges, ConversationPage, Erasure, MemoryStats
    from ractogateway.redis.blocking.chat_memory import RedisChatMemory
    from ractogateway.redis.blocking.exact_cache import RedisExactCache
    from ractogateway.redis.blocking.rate_limiter import RedisRateLimiter
    from ractogateway.redis.blocking.reservation import Reservation
    from ractogateway.redis.chat_memory import AsyncRedisChatMemory
    from ractogateway.redis.config import (
        BudgetLeases,
        ChatMemoryConfig,
        RateLimitCharge,
        RateLimitConfig,
        RateLimitDecision,
        RateLimitParent,
        RedisOptions,
    )
    from ractogateway.redis.encryption import Encryption
    from ractogateway.redis.exact_cache import AsyncRedisExactCache
    from ractogateway.redis.rate_limiter import AsyncRedisRateLimiter

__all__ = [
    "AsyncRedisChatMemory",
    "AsyncRedisExactCache",
    "AsyncRedisRateLimiter",
    "AsyncReservation",
    "BudgetLeases",
    "CacheRequest",
    "ChatMemoryConfig",
    "ConversationChanges",
    "ConversationPage",
    "Encryption",
    "Erasure",
    "MemoryStats",
    "PendingReservation",
    "RateLimitCharge",
    "RateLimitConfig",
    "RateLimitDecision",
    "RateLimitParent",
    "RedisChatMemory",
    "RedisExactCache",
    "RedisOptions",
    "RedisRateLimiter",
    "Reservation",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "AsyncRedisChatMemory": "redis.chat_memory",
        "AsyncRedisExactCache": "redis.exact_cache",
        "AsyncRedisRateLimiter": "redis.rate_limiter",
        "AsyncReservation": "redis._limiter.reservations",
        "BudgetLeases": "redis.config",
        "CacheRequest": "cache.protocol",
        "ChatMemoryConfig": "redis.config",
        "ConversationChanges": "redis._memory.values",
        "ConversationPage": "redis._memory.values",
        "Encryption": "redis.encryption",
        "Erasure": "redis._memory.values",
        "MemoryStats": "redis._memory.values",
        "PendingReservation": "redis._limiter.reservations",
        "RateLimitCharge": "redis.config",
        "RateLimitConfig": "redis.config",
        "RateLimitDecision": "redis.config",
        "RateLimitParent": "redis.config",
        "RedisChatMemory": "redis.blocking.chat_memory",
        "RedisExactCache": "redis.blocking.exact_cache",
        "RedisOptions": "redis.config",
        "RedisRateLimiter": "redis.blocking.rate_limiter",
        "Reservation": "redis.blocking.reservation",
    },
)
