"""Callers that wake one another, whatever kind each is, and work that goes on without its caller."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from probing import async_port, blocking_port
from servers import wait_until

from ractogateway.redis.transport import Signal, drive

NOWHERE = "redis://127.0.0.1:1/0"


def test_a_signal_wakes_tasks_and_threads():
    signal, waiting = Signal(), []

    async def tasks() -> list[bool]:
        port = async_port(NOWHERE)

        async def wait() -> bool:
            waiting.append(1)
            return await port.wait(signal, 20.0)

        return await asyncio.gather(*(wait() for _ in range(3)))

    def thread() -> bool:
        waiting.append(1)
        return drive(blocking_port(NOWHERE).wait(signal, 20.0))

    with ThreadPoolExecutor(5) as pool:
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        threads = [pool.submit(thread) for _ in range(3)]
        wait_until(lambda: len(waiting) == 9)
        assert not signal.happened
        signal.happen()
        signal.happen()
        assert [loop.result(10) for loop in loops] == [[True] * 3] * 2
        assert [thread.result(10) for thread in threads] == [True] * 3
    assert drive(blocking_port(NOWHERE).wait(signal, 0.0)), "it stays so"
    assert asyncio.run(async_port(NOWHERE).wait(signal, 0.0))


@pytest.mark.parametrize("seconds", [0.05, 0.0, -1.0])
def test_nobody_waits_for_longer_than_he_wants(seconds):
    signal, began = Signal(), time.monotonic()
    assert not drive(blocking_port(NOWHERE).wait(signal, seconds))
    assert not asyncio.run(async_port(NOWHERE).wait(signal, seconds))
    assert time.monotonic() - began >= seconds
    assert signal._wakers == [], "whoever has gone is not woken"


def test_whoever_is_cancelled_is_not_woken():
    async def main() -> None:
        signal = Signal()
        waiter = asyncio.create_task(async_port(NOWHERE).wait(signal, 20.0))
        await asyncio.sleep(0)
        assert len(signal._wakers) == 1
        waiter.cancel()
        await asyncio.wait([waiter])
        assert signal._wakers == []

    asyncio.run(main())


def test_a_signal_outlives_the_loops_of_its_waiters():
    signal = Signal()

    async def main() -> None:
        asyncio.create_task(async_port(NOWHERE).wait(signal, 20.0))  # noqa: RUF006 - it is to be forgotten
        await asyncio.sleep(0)

    asyncio.run(main())
    closed = asyncio.new_event_loop()
    closed.run_until_complete(main())
    for task in asyncio.all_tasks(closed):
        task.cancel()
    closed.run_until_complete(asyncio.sleep(0))
    closed.close()
    signal.happen()


def test_work_that_is_ended_at_once_cleans_up_all_the_same():
    async def main() -> None:
        seen: list[str] = []

        async def work() -> None:
            try:
                seen.append("begun")
                await asyncio.sleep(20)
            finally:
                seen.append("cleaned up")

        end = await async_port(NOWHERE).lead(work())
        await asyncio.to_thread(end)  # from whatever thread
        async with asyncio.timeout(5):
            while len(seen) < 2:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)
        seen.clear()
        end = await async_port(NOWHERE).lead(work())
        end()  # before its first step
        async with asyncio.timeout(5):
            while len(seen) < 2:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)
        assert seen == ["begun", "cleaned up"]

    asyncio.run(main())


def test_a_blocking_caller_does_its_work_itself():
    seen: list[int] = []

    async def work() -> None:
        seen.append(threading.get_ident())

    end = drive(blocking_port(NOWHERE).lead(work()))
    end()
    assert seen == [threading.get_ident()]
    blocking_port(NOWHERE).background(work())
    wait_until(lambda: len(seen) == 2)
    assert seen[1] != threading.get_ident()
