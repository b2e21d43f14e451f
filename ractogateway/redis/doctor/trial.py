"""Each tool used once, over its own way to the server: scripts load, keys are allowed, the server takes writes.

Leaves keys that expire: of the cache, of the limiter and of one conversation, whose revision stays for a day. They are
always the same ones but for an answer of a minute's life.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from ractogateway.errors import PermissionDenied, StoreError, StoreNotReady
from ractogateway.messages import LLMResponse
from ractogateway.redis.chat_memory import AsyncRedisChatMemory
from ractogateway.redis.config import ChatMemoryConfig, RateLimitConfig, RedisOptions
from ractogateway.redis.doctor.findings import Finding
from ractogateway.redis.exact_cache import AsyncRedisExactCache
from ractogateway.redis.rate_limiter import AsyncRedisRateLimiter

_NAME: Final = "ractogateway doctor"
_TTL_SECONDS: Final = 60.0

_ADVICE: Final[Mapping[str, str]] = {
    "BUSY": "a script of somebody runs for seconds: SCRIPT KILL, and find out whose it is",
    "CLUSTERDOWN": "look at CLUSTER INFO: slots are without a server",
    "LOADING": "wait until the server has loaded its data",
    "MISCONF": "the server cannot write to its disk: free it, and look into the server's log",
    "NOREPLICAS": "min-replicas-to-write asks for replicas that are not there",
    "OOM": "the server is full: raise maxmemory, or shorten the times to live",
    "READONLY": "this server is a replica: name the primary, or let redis+sentinel:// find it",
}


async def use_tools(url: str | None, tools: Mapping[str, str], seconds: float) -> AsyncIterator[Finding]:
    """Use each of the tools, each call within ``seconds``."""
    options = RedisOptions(timeout_seconds=seconds, connect_timeout_seconds=seconds)
    working = []
    for tool, prefix in tools.items():
        try:
            await _USES[tool](url, prefix, options)
        except StoreError as error:
            yield Finding("trial", "problem", f"the {tool} does not work: {error}", _advice(error))
        else:
            working.append(tool)
    if working:
        yield Finding("trial", "ok", f"used once and found to work: {', '.join(working)}")


def _advice(error: StoreError) -> str:
    if isinstance(error, StoreNotReady):
        return _ADVICE.get(error.code, "")
    if isinstance(error, PermissionDenied):
        return "give the user the rule of SECURITY.md; --user NAME, with an administrator's URL, tells what it lacks"
    return ""


async def _use_cache(url: str | None, prefix: str, options: RedisOptions) -> None:
    cache = AsyncRedisExactCache(
        url=url, key_prefix=prefix, namespace=_NAME, ttl_seconds=_TTL_SECONDS, on_outage="raise", options=options
    )
    request = (secrets.token_hex(16), _NAME, "", 0.0, 1)
    async with cache:
        await cache.put(*request, LLMResponse(content=_NAME))
        await cache.get(*request)
        await cache.invalidate(*request)


async def _use_limiter(url: str | None, prefix: str, options: RedisOptions) -> None:
    limits = RateLimitConfig(key_prefix=prefix, window_seconds=1.0, max_concurrent=1_000)
    limiter = AsyncRedisRateLimiter(url=url, config=limits, on_outage="raise", options=options)
    async with limiter:
        await limiter.consume(_NAME, 1)
        async with limiter.reserve(_NAME, 1, lease_seconds=_TTL_SECONDS) as reservation:
            await reservation.settle(1)
        await limiter.reset(_NAME)


async def _use_memory(url: str | None, prefix: str, options: RedisOptions) -> None:
    config = ChatMemoryConfig(key_prefix=prefix, ttl_seconds=_TTL_SECONDS)
    memory = AsyncRedisChatMemory(url=url, config=config, namespace=_NAME, options=options)
    async with memory:
        await memory.append(_NAME, "user", "Does it work?")
        await memory.get_history(_NAME, last=1)
        await memory.erase(_NAME)


_USES: Final[Mapping[str, Callable[[str | None, str, RedisOptions], Awaitable[None]]]] = {
    "cache": _use_cache,
    "limiter": _use_limiter,
    "memory": _use_memory,
}
