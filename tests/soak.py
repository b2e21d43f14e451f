"""An hour of traffic in minutes: all tools in all faces, while connections are killed, in a process of its own.

    python tests/soak.py redis://127.0.0.1:6379/0 240 24

Time runs fifteen times as fast as in a service: windows of 4 seconds for a minute, times to live of 2 minutes for half
an hour. Users and requests come and go. Now and then everybody rests, and what is in use is counted; the counts are
printed as JSON. The server must be this script's own: it flushes scripts and kills every connection.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import resource
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from ractogateway.errors import RateLimitExceeded, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    ChatMemoryConfig,
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)
from ractogateway.redis.transport.loop_thread import LoopThread

SPEED = 15
WINDOW_SECONDS = 60 / SPEED
TTL_SECONDS = 1800 / SPEED
LEASE_SECONDS = 600 / SPEED
OPTIONS = RedisOptions(timeout_seconds=5.0, breaker_failures=1_000_000)
LIMITS = RateLimitConfig(
    max_tokens_per_minute=5_000, window_seconds=WINDOW_SECONDS, max_requests_per_minute=1_000, max_concurrent=50
)
MEMORY = ChatMemoryConfig(max_turns=10, ttl_seconds=TTL_SECONDS)


class Traffic:
    """Everybody at work. Each worker is a function that does one piece of work, in a thread or a task of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.done: Counter[str] = Counter()
        self.bugs: list[str] = []
        self._resting = threading.Event()
        self._over = threading.Event()
        self._parked = 0
        self._lock = threading.Lock()
        self._workers = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Four threads that block, two loops that stay, one thread whose loops live for a moment."""
        cache, limiter, memory = tools(self.url)
        client = redis.Redis.from_url(self.url)
        given = tools(None, client=client)
        for number in range(3):
            self._thread(blocking, cache, limiter, memory, random.Random(number))
        self._thread(blocking, *given, random.Random(9))
        self._thread(passing, self.url, random.Random(10))
        self._loop(async_tools(self.url), tasks=10)
        self._loop((cache.aio, limiter.aio, memory.aio), tasks=5)
        self._loop(async_tools(None, client=redis.asyncio.Redis.from_url(self.url)), tasks=3)
        self._thread(kill, self.url)

    def rest(self) -> Callable[[], None]:
        """Let everybody come to rest; what is returned lets them go on."""
        self._resting.set()
        deadline = time.monotonic() + 30
        while self._parked < self._workers:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._workers - self._parked} callers hang")
            time.sleep(0.01)
        return self._resting.clear

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _thread(self, work: Callable[..., str], *arguments: Any) -> None:
        self._workers += 1
        self._threads.append(threading.Thread(target=self._repeat, args=(partial(work, *arguments),), daemon=True))
        self._threads[-1].start()

    def _loop(self, trio: Any, tasks: int) -> None:
        async def main() -> None:
            await asyncio.gather(*(self._repeat_async(*trio, random.Random(n)) for n in range(tasks)))

        self._workers += tasks
        self._threads.append(threading.Thread(target=asyncio.run, args=(main(),), daemon=True))
        self._threads[-1].start()

    def _repeat(self, work: Callable[[], str]) -> None:
        while not self._over.is_set():
            if self._resting.is_set():
                self._park(1)
                while self._resting.is_set() and not self._over.is_set():
                    time.sleep(0.01)
                self._park(-1)
            try:
                self._count(work())
            except Exception as error:
                self._failed(error)

    async def _repeat_async(self, cache: Any, limiter: Any, memory: Any, dice: random.Random) -> None:
        while not self._over.is_set():
            if self._resting.is_set():
                self._park(1)
                while self._resting.is_set() and not self._over.is_set():  # noqa: ASYNC110 - set by another thread
                    await asyncio.sleep(0.01)
                self._park(-1)
            try:
                self._count(await awaiting(cache, limiter, memory, dice))
            except Exception as error:
                self._failed(error)

    def _park(self, change: int) -> None:
        with self._lock:
            self._parked += change

    def _count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def _failed(self, error: Exception) -> None:
        self._count(type(error).__name__)
        if not isinstance(error, (StoreUnavailable, RateLimitExceeded, redis.ConnectionError)):
            self.bugs.append("".join(traceback.format_exception(error)))


def tools(url: str | None, **how: Any) -> tuple[RedisExactCache, RedisRateLimiter, RedisChatMemory]:
    """The three blocking faces, by URL with a near cache."""
    by_url = {"options": OPTIONS} if url else {}
    near = {"near_cache_entries": 200} if url else {}
    return (
        RedisExactCache(url, ttl_seconds=TTL_SECONDS, stale_seconds=2.0, **by_url, **near, **how),
        RedisRateLimiter(url, config=LIMITS, **by_url, **how),
        RedisChatMemory(url, config=MEMORY, **by_url, **how),
    )


def async_tools(url: str | None, **how: Any) -> tuple[Any, Any, Any]:
    """The three async cores, likewise."""
    by_url = {"options": OPTIONS} if url else {}
    near = {"near_cache_entries": 200} if url else {}
    return (
        AsyncRedisExactCache(url, ttl_seconds=TTL_SECONDS, stale_seconds=2.0, **by_url, **near, **how),
        AsyncRedisRateLimiter(url, config=LIMITS, **by_url, **how),
        AsyncRedisChatMemory(url, config=MEMORY, **by_url, **how),
    )


def request(dice: random.Random) -> tuple[Any, ...]:
    return f"question {dice.randrange(500)}", "", "model", 0.0, 256


def answer(dice: random.Random) -> LLMResponse:
    return LLMResponse(content="words " * dice.randrange(500))


def blocking(cache: Any, limiter: Any, memory: Any, dice: random.Random) -> str:
    """One request of a service, and what else happens there."""
    user, asked = f"user {dice.randrange(200)}", request(dice)
    chance = dice.random()
    if chance < 0.6:
        with limiter.reserve(user, 50, lease_seconds=LEASE_SECONDS) as reservation:
            found = cache.get_or_compute(*asked, lambda: answer(dice), tags=["all"])
            reservation.settle(10)
        memory.extend(user, [{"role": "user", "content": asked[0]}, {"role": "assistant", "content": found.content}])
        memory.get_history(user, last=3)
        return "request"
    if chance < 0.9:
        cache.get(*request(dice))
        limiter.consume(user, 5)
        memory.get_history(user)
        return "read"
    return odd(cache, limiter, memory, dice, user)


def odd(cache: Any, limiter: Any, memory: Any, dice: random.Random, user: str) -> str:
    cache.invalidate(*request(dice))
    limiter.wait(user, 5, timeout_seconds=0.05)
    copy = f"{user}, copied by {id(dice)}"
    memory.erase(copy)
    memory.append(user, "user", "Hello!")
    memory.fork(user, copy)
    if dice.random() < 0.02:
        cache.invalidate_tag("all")
    return "odd"


async def awaiting(cache: Any, limiter: Any, memory: Any, dice: random.Random) -> str:
    """The same for who awaits; some give up in the middle."""
    user, asked = f"user {dice.randrange(200)}", request(dice)

    async def compute() -> LLMResponse:
        await asyncio.sleep(dice.random() * 0.01)
        return answer(dice)

    async def work() -> None:
        async with limiter.reserve(user, 50, lease_seconds=LEASE_SECONDS) as reservation:
            found = await cache.get_or_compute(*asked, compute, tags=["all"])
            await reservation.settle(10)
        turn = [{"role": "user", "content": asked[0]}, {"role": "assistant", "content": found.content}]
        await memory.extend(user, turn)
        await memory.get_history(user, last=3)

    await asyncio.sleep(0.002)
    if dice.random() < 0.2:
        task = asyncio.create_task(work())
        await asyncio.sleep(dice.random() * 0.005)
        task.cancel()
        await asyncio.wait([task])
        return "cancelled"
    await work()
    return "awaited request"


def passing(url: str, dice: random.Random) -> str:
    """Objects and loops that are made, used once, and forgotten."""

    async def once() -> None:
        for _ in range(3):
            await awaiting(*async_tools(url), dice)

    asyncio.run(once())
    blocking(*tools(url), dice)
    return "loop"


def kill(url: str) -> str:
    """Every connection of this process, now and then; scripts less often."""
    with redis.Redis.from_url(url) as client:
        time.sleep(0.2)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        if random.random() < 0.1:
            client.script_flush()
    return "kill"


# --- what is in use --------------------------------------------------------------------------------------------------


def count(url: str) -> dict[str, float]:
    """Whatever a leak would add to, while everybody rests."""
    for _ in range(2):
        gc.collect()
        time.sleep(0.1)  # what was closed is closed on the other side, too
    with redis.Redis.from_url(url) as client:
        connections = len(client.client_list()) - 1
        keys = client.dbsize()
    thread = LoopThread.current
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mb": round(pages * resource.getpagesize() / 1e6, 1),
        "connections": connections,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())) - 1,
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks(thread.loop)) if thread is not None else 0,
        "objects": len(gc.get_objects()),
        "keys": keys,
    }


def main(url: str, seconds: float, rests: int) -> None:
    """Work for so many seconds, with so many rests: what is there at the end of one, somebody keeps."""
    logging.disable()  # a line for each outage, of which there are hundreds
    traffic = Traffic(url)
    traffic.start()
    samples = []
    for _ in range(rests):
        time.sleep(seconds / rests)
        go_on = traffic.rest()
        samples.append({**count(url), "done": sum(traffic.done.values())})
        go_on()
    traffic.stop()
    print(json.dumps({"samples": samples, "done": traffic.done, "bugs": traffic.bugs[:5]}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
