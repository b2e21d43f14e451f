"""Waits that could not end are not begun: below one's own computation, and in the thread that would have to go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from secrecy import SECRET_PROMPT
from servers import Server, wait_until

from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis._cache import flights

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
PATIENT = RedisOptions(timeout_seconds=10.0)  # busy machines are slow
SOON_SECONDS = flights.LEASE_SECONDS / 2
"""Much less than any of the waits that would end these tests otherwise."""


def answering(content: str) -> Callable[[], LLMResponse]:
    return lambda: LLMResponse(content=content)


@pytest.fixture
def in_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACTOGATEWAY_BLOCKING_IN_LOOP", "allow")


@pytest.fixture
def cache(any_server: Server) -> Iterator[RedisExactCache]:
    with RedisExactCache(url=any_server.url, ttl_seconds=60, max_wait_seconds=12.0, options=PATIENT) as made:
        yield made


@pytest.fixture
def down() -> RedisExactCache:
    """A cache whose server is not there."""
    return RedisExactCache(url="redis://127.0.0.1:1/0", ttl_seconds=60, max_wait_seconds=12.0)


@pytest.mark.usefixtures("in_loops")
@pytest.mark.parametrize("moment", ["asking", "computing"])
@pytest.mark.parametrize("name", ["cache", "down"])
def test_a_blocking_call_does_not_wait_for_the_loop_that_it_stops(request, name, moment):
    cache: RedisExactCache = request.getfixturevalue(name)

    async def main() -> None:
        await cache.aio.get(*REQUEST)
        computing, gate = asyncio.Event(), asyncio.Event()

        async def slow() -> LLMResponse:
            computing.set()
            await gate.wait()
            return LLMResponse(content="awaited")

        task = asyncio.create_task(cache.aio.get_or_compute(*REQUEST, slow))
        await (asyncio.sleep(0) if moment == "asking" else computing.wait())
        began = time.monotonic()
        # In its own thread it would be waited for; here nobody else can go on.
        assert cache.get_or_compute(*REQUEST, answering("blocking")).content == "blocking"
        assert time.monotonic() - began < SOON_SECONDS
        gate.set()
        assert (await task).content in ("awaited", "blocking")

    asyncio.run(main())


@pytest.mark.usefixtures("in_loops")
def test_a_blocking_call_does_not_share_the_watch_of_the_loop_that_it_stops(cache, any_server):
    other = RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
    computing, gate = threading.Event(), threading.Event()

    def theirs() -> LLMResponse:
        computing.set()
        assert gate.wait(10)
        return LLMResponse(content="theirs")

    async def main() -> None:
        assert computing.wait(10)
        task = asyncio.create_task(cache.aio.get_or_compute(*REQUEST, answering("awaited")))
        while not cache._core._flights.watches:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)
        threading.Timer(0.2, gate.set).start()
        began = time.monotonic()
        assert cache.get_or_compute(*REQUEST, answering("blocking")).content == "theirs"
        assert time.monotonic() - began < SOON_SECONDS
        assert (await task).content == "theirs"

    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(other.get_or_compute, *REQUEST, theirs)
        asyncio.run(main())
        assert leading.result().content == "theirs"


def test_a_thread_does_not_pay_for_somebody_elses_loop(cache):
    cache.put(*REQUEST, LLMResponse(content="stored"))
    asking, gate = threading.Event(), threading.Event()

    async def main() -> None:
        await cache.aio.get("warm", *REQUEST[1:])
        task = asyncio.create_task(cache.aio.get_or_compute(*REQUEST, answering("never")))
        await asyncio.sleep(0)
        asking.set()
        assert gate.wait(10), "the thread waits for this loop"  # as a handler that blocks it
        assert (await task).content == "stored"

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(main()))
        assert asking.wait(10)
        assert cache.get_or_compute(*REQUEST, answering("never")).content == "stored"
        gate.set()
        running.result()


@pytest.mark.parametrize("name", ["cache", "down"])
def test_a_computation_that_asks_for_its_own_answer_gets_one(request, name):
    cache: RedisExactCache = request.getfixturevalue(name)

    async def inner() -> LLMResponse:
        return LLMResponse(content="inner")

    async def awaiting() -> LLMResponse:
        return await cache.aio.get_or_compute(*REQUEST, lambda: asyncio.run(below()))

    async def below() -> LLMResponse:  # in a worker thread of the loop, in a loop of its own
        return await cache.aio.get_or_compute(*REQUEST, inner)

    def blocking() -> LLMResponse:
        return cache.get_or_compute(*REQUEST, lambda: cache.get_or_compute(*REQUEST, answering("inner")))

    for how in (blocking, lambda: asyncio.run(awaiting())):
        began = time.monotonic()
        assert how().content == "inner"
        assert time.monotonic() - began < SOON_SECONDS
        if name == "cache":
            assert cache.invalidate(*REQUEST), "the outer answer was stored"
    assert not flights._under.get(), "the caller's context is left as it was"


def test_another_object_knows_the_computation_under_which_it_is_asked(cache, any_server):
    other = RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
    began = time.monotonic()
    answer = cache.get_or_compute(*REQUEST, lambda: other.get_or_compute(*REQUEST, answering("inner")))
    assert answer.content == "inner"
    assert time.monotonic() - began < SOON_SECONDS


@pytest.mark.parametrize("where", ["server", "outage"])
def test_a_computation_whose_loop_was_closed_is_not_waited_for(any_server, where):
    url = any_server.url if where == "server" else "redis://127.0.0.1:1/0"
    cache = AsyncRedisExactCache(url=url, ttl_seconds=60, max_wait_seconds=60.0)
    begun = threading.Event()

    async def endless() -> LLMResponse:
        begun.set()
        return await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.get_or_compute(*REQUEST, endless))
    while not begun.is_set():
        loop.run_until_complete(asyncio.sleep(0.01))
    task._log_destroy_pending = False
    loop.close()

    async def main() -> None:
        async with asyncio.timeout(flights.LEASE_SECONDS + 2.0):
            assert (await cache.get_or_compute(*REQUEST, answering("new"))).content == "new"

    asyncio.run(main())


def test_a_thread_waits_for_the_renewal_that_it_began(any_server):
    """The renewal has a thread of its own, so waiting for it can end."""
    cache = RedisExactCache(url=any_server.url, ttl_seconds=0.3, early_refresh=1000.0, options=PATIENT)
    renewing, gate = threading.Event(), threading.Event()

    def renewed() -> LLMResponse:
        renewing.set()
        assert gate.wait(10)
        return LLMResponse(content="renewed")

    cache.get_or_compute(*REQUEST, lambda: time.sleep(0.01) or LLMResponse(content="stored"))
    assert cache.get_or_compute(*REQUEST, renewed).content == "stored"
    assert renewing.wait(10)
    wait_until(lambda: cache.get(*REQUEST) is None, what="the end of the stored answer")
    threading.Timer(0.1, gate.set).start()
    assert cache.get_or_compute(*REQUEST, answering("paid for twice")).content == "renewed"
