"""Three tools that every replica of an LLM service shares, kept in Redis: an exact response cache, a token-budget rate
limiter and a bounded chat memory.

Each is one async core (``Async…``) and a blocking face with the same methods; ``face.aio`` is its async core.
"""

from __future__ import annotations

from ractogateway.cache.protocol import CacheRequest
from ractogateway.redis._limiter.reservations import AsyncReservation
from ractogateway.redis._memory.values import ConversationChanges, ConversationPage, Erasure, MemoryStats
from ractogateway.redis.blocking import RedisChatMemory, RedisExactCache, RedisRateLimiter, Reservation
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
