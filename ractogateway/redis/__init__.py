"""Three tools that every replica of an LLM service shares, kept in Redis: an exact response cache, a token-budget rate
limiter and a bounded chat memory.

Each is one async core (``Async…``) and a blocking face with the same methods; ``face.aio`` is its async core.
"""

from __future__ import annotations

from ractogateway.cache.protocol import CacheRequest
from ractogateway.redis.blocking import RedisChatMemory, RedisExactCache, RedisRateLimiter
from ractogateway.redis.chat_memory import AsyncRedisChatMemory
from ractogateway.redis.config import ChatMemoryConfig, RateLimitConfig, RateLimitDecision, RedisOptions
from ractogateway.redis.encryption import Encryption
from ractogateway.redis.exact_cache import AsyncRedisExactCache
from ractogateway.redis.rate_limiter import AsyncRedisRateLimiter

__all__ = [
    "AsyncRedisChatMemory",
    "AsyncRedisExactCache",
    "AsyncRedisRateLimiter",
    "CacheRequest",
    "ChatMemoryConfig",
    "Encryption",
    "RateLimitConfig",
    "RateLimitDecision",
    "RedisChatMemory",
    "RedisExactCache",
    "RedisOptions",
    "RedisRateLimiter",
]
