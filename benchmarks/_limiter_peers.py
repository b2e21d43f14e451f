"""Rate limiters of other libraries, each behind one function: spend so many tokens of one user, or be refused.

``LiteLLM v3`` is no library call but our own short script with the semantics of its proxy's limiter (a counter and the
start of its window per descriptor, on the server's clock in whole seconds; the window begins with the first request):
the proxy itself brings more than a limiter can be measured with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from unittest import mock

import redis

from ractogateway.redis import RateLimitConfig, RedisRateLimiter

Spend = Callable[[int], bool]
Maker = Callable[["Place"], Spend]

LITELLM_V3 = """
local now = redis.call('TIME')[1] + 0
local window, limit, cost = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0
local start = redis.call('GET', KEYS[1])
if not start or now - start >= window then
  redis.call('SET', KEYS[1], now, 'EX', window)
  redis.call('SET', KEYS[2], 0, 'EX', window)
end
if redis.call('GET', KEYS[2]) + cost > limit then return 0 end
redis.call('INCRBY', KEYS[2], cost)
return 1
"""


class Place:
    """Where and what a limiter limits: one user's budget over one server.

    ``ahead_seconds``: by how much this replica's clock is ahead. Only limiters that use the clock of the client see it.
    """

    def __init__(self, url: str, *, user: str, limit: int, window_seconds: int, ahead_seconds: float = 0.0) -> None:
        self.url, self.user, self.limit = url, user, limit
        self.window_seconds, self.ahead_seconds = window_seconds, ahead_seconds

    def shifted(self, spend: Spend) -> Spend:
        if not self.ahead_seconds:
            return spend
        real = time.time

        def with_its_clock(cost: int) -> bool:
            with mock.patch("time.time", side_effect=lambda: real() + self.ahead_seconds):
                return spend(cost)

        return with_its_clock


def ractogateway(place: Place) -> Spend:
    config = RateLimitConfig(max_tokens_per_minute=place.limit, window_seconds=float(place.window_seconds))
    limiter = RedisRateLimiter(place.url, config=config, on_outage="raise")
    return lambda cost: limiter.consume(place.user, cost).allowed


def limits_moving(place: Place) -> Spend:
    return _limits(place, "MovingWindowRateLimiter")


def limits_counter(place: Place) -> Spend:
    return _limits(place, "SlidingWindowCounterRateLimiter")


def _limits(place: Place, strategy: str) -> Spend:
    import limits  # noqa: PLC0415 - optional
    import limits.strategies  # noqa: PLC0415

    limiter = getattr(limits.strategies, strategy)(limits.storage.RedisStorage(place.url))
    item = limits.RateLimitItemPerSecond(place.limit, place.window_seconds)
    return place.shifted(lambda cost: limiter.hit(item, place.user, cost=cost))


def throttled_gcra(place: Place) -> Spend:
    return _throttled(place, "gcra")


def throttled_sliding(place: Place) -> Spend:
    return _throttled(place, "sliding_window")


def _throttled(place: Place, algorithm: str) -> Spend:
    import throttled  # noqa: PLC0415 - optional

    quota = throttled.rate_limiter.per_duration(timedelta(seconds=place.window_seconds), place.limit)
    limiter = throttled.Throttled(using=algorithm, quota=quota, store=throttled.store.RedisStore(place.url))
    return place.shifted(lambda cost: not limiter.limit(place.user, cost=cost).limited)


def pyrate(place: Place) -> Spend:
    import pyrate_limiter  # noqa: PLC0415 - optional
    from pyrate_limiter import Rate, RateItem, RedisBucket  # noqa: PLC0415

    # A check of many tokens takes it longer than redis-py waits by itself.
    client = redis.Redis.from_url(place.url, socket_timeout=60)
    bucket = RedisBucket.init([Rate(place.limit, place.window_seconds * 1000)], client, place.user)
    assert pyrate_limiter

    def spend(cost: int) -> bool:
        now_ms = time.time_ns() // 1_000_000 + round(place.ahead_seconds * 1000)
        return bool(bucket.put(RateItem(place.user, now_ms, weight=cost)))

    return spend


def litellm_v3(place: Place) -> Spend:
    script = redis.Redis.from_url(place.url).register_script(LITELLM_V3)
    keys = [f"{{{place.user}}}:window", f"{{{place.user}}}:count"]
    return lambda cost: script(keys, [place.window_seconds, place.limit, cost]) == 1


MAKERS: dict[str, Maker] = {
    "ractogateway": ractogateway,
    "limits, moving window": limits_moving,
    "limits, sliding counter": limits_counter,
    "throttled-py, GCRA": throttled_gcra,
    "throttled-py, sliding window": throttled_sliding,
    "pyrate-limiter": pyrate,
    "LiteLLM v3 (re-implemented)": litellm_v3,
}
