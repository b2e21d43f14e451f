"""No request fails because of the cache: whatever becomes of Redis, an answer is found or computed."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from books import Tally
from probing import Watch, own_server
from proxy import Proxy
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import wait_until

from ractogateway.errors import StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis._cache.store import AnswerStore

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER)
NOWHERE = "redis://127.0.0.1:1/0"
HASTY = RedisOptions(timeout_seconds=0.05)
PATIENT = RedisOptions(timeout_seconds=10.0)


def ask(number: int) -> tuple[str, str, str, float, int]:
    return (f"question {number}", *REQUEST[1:])


def answer(number: int) -> LLMResponse:
    return LLMResponse(content=f"answer {number}" + "x" * 500)


# --- no server at all ------------------------------------------------------------------------------------------------


def test_without_redis_a_process_computes_once():
    async def main() -> None:
        cache, computed = AsyncRedisExactCache(url=NOWHERE, ttl_seconds=60), []

        async def compute() -> LLMResponse:
            computed.append(1)
            await asyncio.sleep(0.05)
            return ANSWER

        for turn in (1, 2):
            answers = await asyncio.gather(*(cache.get_or_compute(*REQUEST, compute) for _ in range(20)))
            assert sorted(answer.cached for answer in answers) == [False] + [True] * 19
            assert len(computed) == turn, "nothing was stored"
        stats = await cache.stats()
        assert (stats.size, stats.fleet, stats.misses, stats.coalesced) == (None, None, 2, 38)
        assert stats.errors > 0

    asyncio.run(main())


def test_without_redis_threads_compute_once():
    cache, computed = RedisExactCache(url=NOWHERE, ttl_seconds=60, options=HASTY), []

    def compute() -> LLMResponse:
        computed.append(1)
        time.sleep(0.3)  # longer than anybody takes to find out that there is no Redis
        return ANSWER

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(cache.get_or_compute, *REQUEST, compute) for _ in range(8)]
        assert {answer.result(20).content for answer in answers} == {SECRET_ANSWER}
    assert len(computed) == 1


def test_an_outage_raises_where_it_should():
    cache = RedisExactCache(url=NOWHERE, ttl_seconds=60, on_outage="raise", options=HASTY)
    for call in (
        lambda: cache.get_or_compute(*REQUEST, lambda: ANSWER),
        lambda: cache.get_many([REQUEST]),
        lambda: cache.put_many([(REQUEST, ANSWER)]),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    silent = RedisExactCache(url=NOWHERE, ttl_seconds=60, options=HASTY)
    assert silent.get_many([REQUEST, REQUEST]) == [None, None]
    silent.put_many([(REQUEST, ANSWER)])
    with pytest.raises(StoreUnavailable):
        silent.invalidate_tag("tag")


@pytest.mark.parametrize("port", ["blocking", "async"])
def test_nobody_waits_for_the_fleet_being_told(any_server, monkeypatch, port):
    monkeypatch.setattr("ractogateway.redis._cache.counts._TELL_SECONDS", 0.0)
    told, free = threading.Event(), threading.Event()

    async def add_counts(_self, _additions):
        told.set()
        while not free.is_set():
            await asyncio.sleep(0) if port == "async" else free.wait()

    monkeypatch.setattr(AnswerStore, "add_counts", add_counts)

    async def in_a_loop() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60)
        async with asyncio.timeout(10):
            assert await cache.get(*ask(1)) is None
            assert await cache.get_or_compute(*ask(1), lambda: answer(1)) == answer(1)
            while not told.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0)

    if port == "async":
        asyncio.run(in_a_loop())
    else:
        cache = RedisExactCache(url=any_server.url, ttl_seconds=60)
        assert cache.get(*ask(1)) is None
        assert cache.get_or_compute(*ask(1), lambda: answer(1)) == answer(1)
        assert told.wait(10)
    free.set()


def test_an_answer_that_was_paid_for_is_returned_even_where_outages_raise():
    with own_server() as server:
        cache = RedisExactCache(url=server.url, ttl_seconds=60, on_outage="raise")

        def compute() -> LLMResponse:
            server.kill()
            return ANSWER

        assert cache.get_or_compute(*REQUEST, compute) is ANSWER


# --- a server that comes and goes ------------------------------------------------------------------------------------


@pytest.mark.cell("kill and restart", "cache")
@pytest.mark.parametrize("near_cache_entries", [pytest.param(0, marks=pytest.mark.slow), 50])
def test_no_request_fails_while_a_server_comes_and_goes(near_cache_entries, caplog):
    caplog.set_level(logging.INFO, "ractogateway")
    slowest = [0.0]

    async def main() -> None:
        cache = AsyncRedisExactCache(url=server.url, ttl_seconds=60, near_cache_entries=near_cache_entries)
        over = asyncio.Event()

        async def worker(chance: random.Random) -> None:
            while not over.is_set():
                number, what = chance.randrange(30), chance.random()
                began = time.monotonic()
                if what < 0.5:
                    found = await cache.get(*ask(number))
                    assert found is None or found.content == answer(number).content
                elif what < 0.7:
                    await cache.put(*ask(number), answer(number), tags=["t"])
                else:

                    async def compute(number: int = number) -> LLMResponse:
                        return answer(number)

                    found = await cache.get_or_compute(*ask(number), compute)
                    assert found.content == answer(number).content
                slowest[0] = max(slowest[0], time.monotonic() - began)
                await asyncio.sleep(0.001)

        async def faults() -> None:
            for fault in (server.kill, server.freeze, server.restart):
                await asyncio.sleep(0.2)
                await asyncio.to_thread(fault)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.revive)
                while await cache.get(*ask(0)) is None:
                    await cache.put(*ask(0), answer(0))
                    await asyncio.sleep(0.01)
            over.set()

        await asyncio.gather(faults(), *(worker(random.Random(number)) for number in range(20)))

    with own_server() as server, Watch() as watch:
        asyncio.run(main())
    # A lookup (or a look at the near cache's connection), and a fill: each within its budget.
    watch.assert_kept(3 * 0.4, slowest[0])
    said = [record.getMessage() for record in caplog.records if record.name == "ractogateway.redis"]
    assert 2 <= len([line for line in said if "unavailable" in line]) <= 8


FORGETTING = {
    "put": lambda cache: cache.put(*REQUEST, answer(2)),
    "put_many": lambda cache: cache.put_many([(REQUEST, answer(2))]),
    "invalidate": lambda cache: cache.invalidate(*REQUEST),
    "invalidate_tag": lambda cache: cache.invalidate_tag("tag"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("how", FORGETTING)
def test_what_was_begun_without_redis_is_overtaken_like_everything_else(any_server, how):
    async def main(proxy: Proxy) -> None:
        cache = AsyncRedisExactCache(url=proxy.url, ttl_seconds=60, options=RedisOptions(breaker_seconds=0.05))
        begun, gate = asyncio.Event(), asyncio.Event()

        async def old() -> LLMResponse:
            begun.set()
            await gate.wait()
            return answer(1)

        with proxy.refusing():
            proxy.cut()
            first = asyncio.create_task(cache.get_or_compute(*REQUEST, old, tags=["tag"]))
            await begun.wait()
        async with asyncio.timeout(10):
            while True:
                try:
                    await cache.size()
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.02)
        await FORGETTING[how](cache)
        with proxy.refusing():
            proxy.cut()
            async with asyncio.timeout(10):  # much less than a wait for the first one would take
                later = await cache.get_or_compute(*REQUEST, lambda: answer(3), tags=["tag"])
        assert later == answer(3)
        gate.set()
        assert await first == answer(1)

    with Proxy(any_server.url) as proxy:
        asyncio.run(main(proxy))


def test_an_open_breaker_costs_nothing():
    with own_server() as server:
        cache = RedisExactCache(url=server.url, ttl_seconds=60, options=RedisOptions(breaker_seconds=60.0))
        cache.put(*REQUEST, ANSWER)
        assert cache.get(*REQUEST) is not None
        with server.frozen(), Watch() as watch:
            for _ in range(10):  # until it opens
                cache.get(*REQUEST)
            began = time.monotonic()
            for _ in range(100):
                assert cache.get(*REQUEST) is None
                assert cache.get_or_compute(*REQUEST, lambda: ANSWER) is ANSWER
                cache.put(*REQUEST, ANSWER)
            seconds = time.monotonic() - began
        watch.assert_kept(0.05, seconds)  # 300 calls, none of which asks anybody


@pytest.mark.cell("reply lost", "cache", "blocking")
@pytest.mark.parametrize("after_loss", ["cut", "silence"])
def test_lost_replies_cost_no_answer(any_server, after_loss):
    with Proxy(any_server.url) as proxy, ThreadPoolExecutor(8) as pool:
        options = RedisOptions(timeout_seconds=0.1, stall_seconds=0.05, breaker_failures=1_000_000)
        cache = RedisExactCache(url=proxy.url, ttl_seconds=60, options=options)
        proxy.faults(lose_one_in=10, losing=(b"EVALSHA", b"EVAL", b"GET"), after_loss=after_loss)

        def caller(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(10):
                number = chance.randrange(40)
                got = cache.get_or_compute(*ask(number), lambda number=number: answer(number), tags=["t"])
                assert got.content == answer(number).content

        for call in [pool.submit(caller, seed) for seed in range(8)]:
            call.result(60)
        assert proxy.lost > 0


# --- a server that is full -------------------------------------------------------------------------------------------


@pytest.mark.cell("eviction", "cache", "blocking")
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random"])
def test_eviction_makes_misses_and_nothing_else(policy, figures):
    with own_server(config={"maxmemory": "3mb", "maxmemory-policy": policy}) as server:
        cache = RedisExactCache(
            url=server.url, ttl_seconds=600, compress_above_bytes=10**9, on_outage="raise", options=PATIENT
        )
        chance = random.Random(policy)
        hits, misses, tally = 0, 0, Tally()
        for number in range(3000):
            tally.saw(cache.put(*ask(number), answer(number), tags=[f"tag {number % 7}"] if number % 2 else []), None)
            asked = max(0, number - chance.randrange(600))
            found = cache.get(*ask(asked))
            tally.saw(found and found.content, None, answer(asked).content)
            hits, misses = hits + (found is not None), misses + (found is None)
            if number % 500 == 250:
                cache.invalidate_tag("tag 1")
                for each in range(1, number, 14):
                    tally.saw(cache.get(*ask(each)), None)
                computed = cache.get_or_compute(*ask(number), lambda number=number: answer(number))
                tally.saw(computed.content, answer(number).content)
        with server.client() as client:
            assert client.info("stats")["evicted_keys"] > 100
        assert hits > 100
        assert misses > 50
        tally.judge(figures, note=f"{policy}: {hits} hits and {misses} misses of {hits + misses}")


@pytest.mark.cell("out of memory", "cache", "blocking")
def test_a_server_without_room_stores_nothing_and_reads_on():
    with own_server(config={"maxmemory-policy": "noeviction"}) as server:
        cache = RedisExactCache(url=server.url, ttl_seconds=60)
        cache.put(*REQUEST, ANSWER)
        cache.get_or_compute(*ask(0), lambda: ANSWER)
        server.command("CONFIG", "SET", "maxmemory", 1)
        cache.put(*ask(1), ANSWER)
        assert cache.get_or_compute(*ask(2), lambda: ANSWER) is ANSWER
        assert [cache.get(*ask(number)) is not None for number in range(3)] == [True, False, False]
        assert cache.get(*REQUEST).content == SECRET_ANSWER
        assert cache.get_or_compute(*REQUEST, lambda: 1 / 0).content == SECRET_ANSWER
        server.command("CONFIG", "SET", "maxmemory", 0)
        wait_until(lambda: cache.get_or_compute(*ask(1), lambda: ANSWER).cached, what="room")
