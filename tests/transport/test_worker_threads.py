"""Blocking clients and blocking functions of users behind ``await``: who shares threads with whom, and how many."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time

import pytest
from servers import Server, wait_until

from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache
from ractogateway.redis._cache import flights
from ractogateway.redis.transport import asyncio_port

pytestmark = pytest.mark.usefixtures("patience")

FEW = 4


@pytest.fixture(autouse=True)
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_port, "_BLOCKING_CALLS", FEW)


class Slow:
    def __init__(self) -> None:
        self.running = 0
        self.gate = threading.Event()

    def __call__(self) -> LLMResponse:
        self.running += 1
        try:
            assert self.gate.wait(30)
        finally:
            self.running -= 1
        return LLMResponse(content="slow")


def request(number: int) -> tuple[str, str, str, float, int]:
    return (f"question {number}", "", "gpt-4o", 0.0, 256)


def test_slow_functions_keep_no_command_and_no_heartbeat_waiting(any_server: Server) -> None:
    async def main() -> None:
        slow = Slow()
        tasks = [asyncio.create_task(cache.aio.get_or_compute(*request(number), slow)) for number in range(FEW)]
        async with asyncio.timeout(10):
            while slow.running < FEW:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
        before = {key: client.pexpiretime(key) for key in client.keys("*:l:*")}
        assert len(before) == FEW
        async with asyncio.timeout(flights.LEASE_SECONDS):
            assert await cache.aio.get(*request(FEW)) is None
            while not all(client.pexpiretime(key) > end > 0 for key, end in before.items()):  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.05)
        slow.gate.set()
        assert {answer.content for answer in await asyncio.gather(*tasks)} == {"slow"}

    with any_server.client() as client:
        cache = RedisExactCache(client=client, ttl_seconds=60)
        asyncio.run(main())


def test_functions_that_were_given_up_count_until_they_end(any_server: Server) -> None:
    async def main() -> None:
        cache, slow = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60), Slow()
        for number in range(3 * FEW):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cache.get_or_compute(*request(number), slow), 0.1)
        assert slow.running == FEW
        began = time.monotonic()
        slow.gate.set()
        # Those that had not begun never will, and what they held is free again.
        answer = await cache.get_or_compute(*request(-1), lambda: LLMResponse(content="new"))
        assert answer.content == "new"
        assert time.monotonic() - began < flights.LEASE_SECONDS
        wait_until(lambda: not slow.running, what="the last thread's end")

    asyncio.run(main())


@pytest.mark.parametrize("kind", [GeneratorExit, ZeroDivisionError])
def test_what_ends_a_computation_is_reported_to_its_caller_only(any_server, caplog, kind):
    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60)

        async def failing() -> LLMResponse:
            raise kind

        with pytest.raises(kind):
            await cache.get_or_compute(*request(0), failing)

    asyncio.run(main())
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_failure_that_nobody_hears_of_makes_no_noise(any_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cache, slow = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60), Slow()

        def failing() -> LLMResponse:
            slow()
            raise ZeroDivisionError

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.get_or_compute(*request(0), failing), 0.2)
        slow.gate.set()
        async with asyncio.timeout(10):
            while slow.running or cache._flights.flights:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
