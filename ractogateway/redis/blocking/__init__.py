"""The blocking faces: the async cores, driven in the calling thread, under the documented names.

Each method is one line: the logic is the core's. ``aio`` is the same tool for ``await``: the same server, settings and
counters.
"""

from __future__ import annotations

from ractogateway.redis.blocking.chat_memory import RedisChatMemory
from ractogateway.redis.blocking.exact_cache import RedisExactCache
from ractogateway.redis.blocking.rate_limiter import RedisRateLimiter
from ractogateway.redis.blocking.reservation import Reservation

__all__ = ["RedisChatMemory", "RedisExactCache", "RedisRateLimiter", "Reservation"]
