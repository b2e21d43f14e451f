"""A second look at the server: another client, another way in, after the run.

Everything in the run went by URL through the library's own transport. Here a plain redis-py client fetches the state,
as another replica would, so that neither side's view rests on the other's.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ractogateway._demo.records import Charge, Log, ServerState
from ractogateway._demo.runner import Plan
from ractogateway._extras import import_extra
from ractogateway.redis import RedisChatMemory, RedisRateLimiter
from ractogateway.redis.embedded import embedded_url, parse_embedded

__all__ = ["audit"]


def audit(plan: Plan, log: Log) -> ServerState:
    """The budgets of all users of ``log`` and the messages of all its conversations, as the server has them now.

    Raises:
        StoreError: the server does not answer any more.
    """
    redis = import_extra("redis", extra="redis", needed_for="the demo")
    is_embedded = urlsplit(plan.url).scheme == "embedded"
    direct = embedded_url(parse_embedded(plan.url)) if is_embedded else plan.url
    with redis.Redis.from_url(direct) as client:
        # Budgets first: they come back while we look.
        limiter = RedisRateLimiter(client=client, config=plan.limiter)
        budgets = [_budget(limiter, user) for user in sorted({charge.user for charge in log.charges})]
        memory = RedisChatMemory(client=client, config=plan.memory)
        conversations = {name: memory.get_history(name) for name in log.turns}
        product = _product(client, redis.RedisError)
        where = "embedded: a child of this process, out of a wheel" if is_embedded else "the one of --url"
        return ServerState(f"{product}, {where}", budgets, conversations)


def _budget(limiter: RedisRateLimiter, user: str) -> Charge:
    sent = time.monotonic()
    remaining = limiter.get_remaining(user)
    return Charge(user, 0, sent, time.monotonic(), allowed=True, remaining=remaining)


def _product(client: Any, redis_error: type[Exception]) -> str:
    said: dict[str, Any] = {}
    with suppress(redis_error):  # an ACL may forbid it, and nothing depends on it
        said = client.info("server")
    if "valkey_version" in said:
        return f"Valkey {said['valkey_version']}"
    return f"Redis {said.get('redis_version', 'of unknown version')}"
