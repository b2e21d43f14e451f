"""A near cache built as `ractogateway.redis.transport.tracking` says never serves what it was told, or should have
noticed, to be stale; and where nothing can be tracked, it holds nothing."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest
import redis.asyncio
from probing import async_port, blocking_port, get, incr, own_server, put, run, run_script
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import InvalidValueError, StoreError, StoreUnavailable
from ractogateway.redis.transport import (
    Port,
    Script,
    TimeLimits,
    drive,
    open_async_port,
    open_blocking_port,
    plain_call,
    script_call,
)
from ractogateway.redis.transport import address as addresses
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.tracked_port import open_tracked_port
from ractogateway.redis.transport.tracking import BEAT_SECONDS, PATIENCE_SECONDS, Tracker, forget, own_write

LIMITS = TimeLimits(5.0, 5.0)
BOUND_SECONDS = BEAT_SECONDS + PATIENCE_SECONDS
KEYS = [b"near:%d" % number for number in range(4)]


class Copies(dict[bytes, bytes]):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Sequence[bytes] | None] = []

    def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
        self.told.append(keys)
        if keys is None:
            self.clear()
        for key in keys or ():
            self.pop(key, None)


class Near:
    """The smallest near cache: what the documentation of `tracking` asks for, and no more."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.tracked = open_tracked_port(port)
        self.served = self.kept = self.refused = 0

    @property
    def tracker(self) -> Tracker:
        return self.tracked.tracker()

    @property
    def copies(self) -> Copies:
        return self.tracker.listener(self, Copies)

    async def get(self, key: bytes, *, linger_seconds: float = 0.0) -> bytes | None:
        tracker, copies = self.tracker, self.copies
        if tracker.alive and (copy := copies.get(key)) is not None:
            self.served += 1
            return copy
        value, fill = await self.tracked.fetch(get(key))
        if linger_seconds:
            await self.port.sleep(linger_seconds)
        if value is not None and fill.keep(lambda: copies.__setitem__(key, value)):
            self.kept += 1
        else:
            self.refused += 1
        return value

    def assert_was_in_use(self) -> None:
        assert min(self.served, self.kept) > 30, "hardly anything was served: this was no test"
        assert self.refused > 3

    def get_blocking(self, key: bytes, *, linger_seconds: float = 0.0) -> bytes | None:
        return drive(self.get(key, linger_seconds=linger_seconds))


async def until(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


async def awaited_near(url: str) -> Near:
    near = Near(async_port(url))
    _ = near.copies
    await until(lambda: near.tracker.alive)
    return near


def blocking_near(url: str) -> Near:
    near = Near(blocking_port(url))
    _ = near.copies
    wait_until(lambda: near.tracker.alive, what="the tracker being alive")
    return near


# --- invalidations ---------------------------------------------------------------------------------------------------

CHANGES: dict[str, Sequence[object]] = {
    "set": ("SET", KEYS[0], "new"),
    "delete": ("DEL", KEYS[0]),
    "append": ("APPEND", KEYS[0], "more"),
    "new time to live": ("PEXPIRE", KEYS[0], 100_000),
    "expiry": ("PEXPIRE", KEYS[0], 30),
    "script": ("EVAL", "return redis.call('SET', KEYS[1], 'new')", 1, KEYS[0]),
    "rename": ("RENAME", KEYS[0], "elsewhere"),
    "flushall": ("FLUSHALL",),
    "flushdb": ("FLUSHDB",),
}


@pytest.fixture(params=["awaiting", "blocking"])
def kind(request):
    return request.param


def test_changes_reach_the_listener(server):
    async def main() -> None:
        near = await awaited_near(server.url)
        with server.client() as foreigner:
            for name, command in CHANGES.items():
                await near.port.run(put(KEYS[0], b"old"))
                await until(lambda: not near.copies)
                assert await near.get(KEYS[0]) == b"old"
                assert near.copies == {KEYS[0]: b"old"}, name
                near.copies.told.clear()
                foreigner.execute_command(*command)
                await until(lambda: not near.copies)
                assert near.copies.told[0] == (None if name.startswith("flush") else [KEYS[0]]), name
                if name == "expiry":  # first the new time to live was told, then, to whoever read again, the end of it
                    await near.get(KEYS[0])
                    await until(lambda: not near.copies)

    asyncio.run(main())


def test_changes_reach_the_listener_of_blocking_callers(server):
    near = blocking_near(server.url)
    run(near.port, put(KEYS[0], b"old"))
    assert near.get_blocking(KEYS[0]) == b"old"
    assert near.copies == {KEYS[0]: b"old"}
    server.command("SET", KEYS[0], "new")
    wait_until(lambda: not near.copies)
    assert near.get_blocking(KEYS[0]) == b"new"
    assert near.get_blocking(KEYS[0]) == b"new"
    assert near.served == 1


def test_what_the_server_remembers(server):
    """Reads, also those of scripts; not what a writing command reads on its way."""
    key = KEYS[0]
    script = Script.of("read", b"return redis.call('GET', KEYS[1])")
    by_script = script_call(script, (key,), (), bytes, replay_safe=True)
    by_write = plain_call(b"SET", (key,), (b"new", b"NX", b"GET"), bytes, replay_safe=True)

    async def main() -> None:
        near = await awaited_near(server.url)
        server.command("MSET", key, "old", KEYS[1], "old")
        for call, remembered in ((by_script, [[key], [KEYS[1]]]), (by_write, [[KEYS[1]]])):
            await near.tracked.fetch(call)
            await near.tracked.fetch(get(KEYS[1]))
            near.copies.told.clear()
            server.command("SET", key, "new")
            server.command("SET", KEYS[1], "new")  # what this causes comes behind whatever that has caused
            await until(lambda: [KEYS[1]] in near.copies.told)
            assert near.copies.told == remembered

    asyncio.run(main())


def test_keys_that_were_not_kept_are_read_together(any_server):
    async def main() -> None:
        near = await awaited_near(any_server.url)
        await near.port.run_many([put(key, key) for key in KEYS])
        fetched = await near.tracked.fetch_many([get(key) for key in KEYS])
        for key, (value, fill) in zip(KEYS, fetched, strict=True):
            assert value == key
            assert fill.keep(lambda key=key, value=value: near.copies.__setitem__(key, value))
        any_server.command("MSET", KEYS[1], "x", KEYS[3], "x")
        await until(lambda: len(near.copies) == 2)
        assert sorted(near.copies) == [KEYS[0], KEYS[2]]

    asyncio.run(main())


# --- fills that are overtaken ----------------------------------------------------------------------------------------


def other_key_than(key: bytes) -> bytes:
    """One that does not share a mark with it."""
    return next(other for other in (b"other:%d" % n for n in range(9)) if hash(other) % 1024 != hash(key) % 1024)


def test_a_fill_that_is_overtaken_is_refused(any_server):
    async def main() -> None:
        near = await awaited_near(any_server.url)
        key = KEYS[0]

        async def overtaken_by(happening: Callable[[], object]) -> bool:
            _, fill = await near.tracked.fetch(get(key))
            told = len(near.copies.told)
            happening()
            await until(lambda: len(near.copies.told) > told)
            return not fill.keep(lambda: pytest.fail("kept"))

        assert await overtaken_by(lambda: any_server.command("SET", key, "foreign"))
        assert await overtaken_by(lambda: any_server.command("FLUSHALL"))
        assert await overtaken_by(lambda: forget((key,)))
        assert await overtaken_by(lambda: forget(None))
        told = len(near.copies.told)
        with contextlib.suppress(KeyError), own_write(key):
            assert len(near.copies.told) == told
            raise KeyError  # a write that failed may have been executed
        assert near.copies.told[told:] == [(key,)]

        _, fill = await near.tracked.fetch(get(key))
        forget((other_key_than(key),))
        kept: list[bytes] = []
        assert fill.keep(lambda: kept.append(key))
        assert kept

    asyncio.run(main())


def test_a_fill_is_refused_that_began_on_another_connection(any_server):
    async def main() -> None:
        near = await awaited_near(any_server.url)
        _, before = await near.tracked.fetch(get(KEYS[0]))
        kill_trackers(any_server)
        await until(lambda: not near.tracker.tracking)
        _, without = await near.tracked.fetch(get(KEYS[0]))  # over the ordinary connection
        await until(lambda: near.tracker.alive)
        assert not before.keep(lambda: pytest.fail("kept"))
        assert not without.keep(lambda: pytest.fail("kept"))
        assert (await near.tracked.fetch(get(KEYS[0])))[1].keep(lambda: None)

    asyncio.run(main())


def test_a_write_by_a_finaliser_in_the_middle_of_a_store():
    """The garbage collector may run anybody's code while the lock is held."""
    tracker, owner = Tracker(), threading.Event()
    tracker.proved(time.monotonic())
    copies = tracker.listener(owner, Copies)

    def store() -> None:
        forget(KEYS[:1])
        copies[KEYS[0]] = b"older than the write"

    assert not tracker.begin(KEYS[:1]).keep(store)
    assert not copies


def test_copies_end_with_their_owner():
    tracker, owner = Tracker(), threading.Event()
    tracker.listener(owner, Copies)
    assert tracker.listener(owner, Copies) is tracker.listener(owner, Copies)
    assert tracker.wanted
    del owner
    gc.collect()
    assert not tracker.wanted


# --- a storm of reads, writes and late pushes ------------------------------------------------------------------------


class Fence(Exchange):
    """A PING on the tracking connection: when it is answered, every invalidation before it has been received."""

    def __init__(self, passed: Callable[[], object]) -> None:
        super().__init__(((b"PING",),))
        self._passed = passed

    def wake(self) -> None:
        if self.failure is None:
            self._passed()


class Floor:
    """The oldest version of each key that may still be served."""

    def __init__(self) -> None:
        self._versions = dict.fromkeys(KEYS, 0)
        self._lock = threading.Lock()

    def of(self, key: bytes) -> int:
        return self._versions[key]

    def rise(self, key: bytes, version: int) -> None:
        with self._lock:
            self._versions[key] = max(self._versions[key], version)


STORM_SECONDS = 0.7


@contextlib.contextmanager
def late_network(server: Server, seed: int) -> Iterator[Proxy]:
    """Every connection has delays of its own, so the reply to a write may outrun the invalidation that it causes."""
    with Proxy(server.url, seed=seed) as proxy:
        server.command("MSET", *(part for key in KEYS for part in (key, 0)))
        yield proxy


@pytest.mark.parametrize("seed", range(3))
def test_awaiting_callers_are_served_nothing_stale(any_server, seed):  # noqa: C901 - four roles in one storm
    async def main(proxy: Proxy) -> Near:
        near, floor = await awaited_near(proxy.url), Floor()
        proxy.faults(delay_seconds=0.001)
        end = time.monotonic() + STORM_SECONDS

        async def reader(chance: random.Random) -> None:
            while time.monotonic() < end:
                key = chance.choice(KEYS)
                oldest = floor.of(key)
                got = await near.get(key, linger_seconds=chance.choice((0, 0, 0, 0.001, 0.004)))
                assert int(got or 0) >= oldest
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))

        async def own_writer(chance: random.Random) -> None:
            while time.monotonic() < end:
                key = chance.choice(KEYS)
                try:
                    with own_write(key):
                        version = await near.port.run(incr(key))
                except StoreUnavailable:
                    continue
                floor.rise(key, version)
                await asyncio.sleep(0.01 * chance.random())

        async def foreign_writer(chance: random.Random) -> None:
            with any_server.client() as foreigner:
                while time.monotonic() < end:
                    key = chance.choice(KEYS)
                    version = await asyncio.to_thread(foreigner.incr, key)
                    link = near.tracked._tracking_link()
                    link.submit(Fence(lambda key=key, version=version: floor.rise(key, version)))
                    await asyncio.sleep(0.01 * chance.random())

        async def cutter(chance: random.Random) -> None:
            for _ in range(2):
                await asyncio.sleep(STORM_SECONDS / 4 * (0.5 + chance.random()))
                await asyncio.to_thread(kill_trackers, any_server)

        roles = [reader] * 12 + [own_writer, own_writer, foreign_writer, foreign_writer, cutter]
        await asyncio.gather(*(role(random.Random(f"{seed}:{n}")) for n, role in enumerate(roles)))
        return near

    with late_network(any_server, seed) as proxy:
        near = asyncio.run(main(proxy))
    near.assert_was_in_use()


@pytest.mark.parametrize("seed", range(3))
def test_threads_are_served_nothing_stale(any_server, seed):
    def reader(near: Near, floor: Floor, chance: random.Random, end: float) -> None:
        while time.monotonic() < end:
            key = chance.choice(KEYS)
            oldest = floor.of(key)
            got = near.get_blocking(key, linger_seconds=chance.choice((0, 0, 0, 0.001, 0.004)))
            assert int(got or 0) >= oldest
            time.sleep(chance.choice((0.0001, 0.0005)))  # six readers of copies would leave nobody else the processor

    def own_writer(near: Near, floor: Floor, chance: random.Random, end: float) -> None:
        while time.monotonic() < end:
            key = chance.choice(KEYS)
            try:
                with own_write(key):
                    version = run(near.port, incr(key))
            except StoreUnavailable:
                continue
            floor.rise(key, version)
            time.sleep(0.01 * chance.random())

    def foreign_writer(near: Near, floor: Floor, chance: random.Random, end: float) -> None:
        with any_server.client() as foreigner:
            while time.monotonic() < end:
                key = chance.choice(KEYS)
                version = foreigner.incr(key)
                link = near.tracked._tracking_link()
                fence = Fence(lambda key=key, version=version: floor.rise(key, version))
                link.loop.call_soon_threadsafe(link.submit, fence)
                time.sleep(0.01 * chance.random())

    with late_network(any_server, seed) as proxy, ThreadPoolExecutor(9) as pool:
        near, floor = blocking_near(proxy.url), Floor()
        proxy.faults(delay_seconds=0.001)
        end = time.monotonic() + STORM_SECONDS
        roles = [reader] * 6 + [own_writer, foreign_writer, foreign_writer]
        calls = [pool.submit(role, near, floor, random.Random(f"{seed}:{n}"), end) for n, role in enumerate(roles)]
        for call in calls:
            call.result()
    near.assert_was_in_use()


# --- silence ---------------------------------------------------------------------------------------------------------


def trackers(server: Server) -> list[str]:
    """The ids of all connections that track."""
    with server.client() as client:
        return [each["id"] for each in client.client_list(_type="normal") if "t" in each["flags"]]


def kill_trackers(server: Server) -> None:
    with server.client() as client:
        for client_id in trackers(server):
            client.client_kill_filter(_id=client_id)


def test_a_connection_that_is_killed(any_server, kind):
    """Everything goes at once, and a moment later a new connection tracks."""

    def check(near: Near, fill_one: Callable[[], object]) -> None:
        fill_one()
        assert near.copies
        tracker, copies = near.tracker, near.copies
        kill_trackers(any_server)
        wait_until(lambda: not tracker.tracking, what="the loss being noticed")
        assert copies.told[-1] is None
        assert not copies
        wait_until(lambda: tracker.alive, what="the new connection")
        fill_one()
        assert near.tracker is tracker
        assert copies

    any_server.command("SET", KEYS[0], "value")
    if kind == "blocking":
        near = blocking_near(any_server.url)
        check(near, lambda: near.get_blocking(KEYS[0]))
        return

    async def main() -> None:
        near = await awaited_near(any_server.url)
        loop = asyncio.get_running_loop()
        fill_one = lambda: asyncio.run_coroutine_threadsafe(near.get(KEYS[0]), loop).result(5)  # noqa: E731
        near.tracked.tracker = lambda tracker=near.tracker: tracker  # seen from another thread
        await asyncio.to_thread(check, near, fill_one)

    asyncio.run(main())


def test_silence_drops_everything_within_two_seconds(any_server):
    """A frozen server, a network that swallows all, and a loop that was stopped by somebody's blocking code."""
    any_server.command("SET", KEYS[0], "value")

    async def main(proxy: Proxy) -> None:
        frozen, cut_off = await awaited_near(any_server.url), await awaited_near(proxy.url)
        held: list[Near] = [frozen, cut_off]
        for near in held:
            await near.get(KEYS[0])
            assert near.copies
        start = time.monotonic()
        proxy.faults(swallow=True)
        with any_server.frozen():
            await until(lambda: not frozen.copies and not cut_off.copies)
            assert BEAT_SECONDS / 2 < time.monotonic() - start < BOUND_SECONDS + 0.3
            assert not any(near.tracker.alive for near in held)
        proxy.faults()
        await until(lambda: all(near.tracker.alive for near in held))
        await frozen.get(KEYS[0])
        assert frozen.copies

        time.sleep(BOUND_SECONDS + 0.01)  # noqa: ASYNC251 - somebody's blocking code
        assert frozen.copies  # nobody could drop them
        assert not frozen.tracker.alive
        await until(lambda: all(near.tracker.alive for near in held))
        assert frozen.copies  # the connection was whole all the time

    with Proxy(any_server.url) as proxy:
        asyncio.run(main(proxy))


# --- where nothing can be tracked ------------------------------------------------------------------------------------


def assert_holds_nothing(near: Near, reason: str) -> None:
    assert not near.tracker.supported
    assert reason in near.tracker.reason
    assert not near.tracker.alive
    assert not near.copies


async def use_without_tracking(near: Near, reason: str) -> None:
    _ = near.copies
    await until(lambda: near.tracker.reason)
    await near.port.run(put(KEYS[0], b"value"))
    for _ in range(3):
        assert await near.get(KEYS[0]) == b"value"
    assert_holds_nothing(near, reason)


@contextlib.contextmanager
def user(server: Server, *rules: str) -> Iterator[str]:
    """The URL of somebody who may not do everything."""
    server.command("ACL", "SETUSER", "somebody", "on", ">secret", "~*", "&*", "+@all", *rules)
    try:
        yield server.url.replace("redis://", "redis://somebody:secret@")
    finally:
        server.command("ACL", "DELUSER", "somebody")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "near cache" in record.getMessage()]


@pytest.mark.parametrize("forbidden", ["-client|tracking", "-client"])
def test_an_acl_that_forbids_it(server, forbidden):
    with user(server, forbidden) as url:
        asyncio.run(use_without_tracking(Near(async_port(url)), "ACL"))


def test_the_smallest_acl_that_allows_it(server):
    """CLIENT TRACKING besides the reads themselves; a PING that is refused is an answer, too."""

    async def main(url: str) -> None:
        near = await awaited_near(url)
        await near.get(KEYS[0])
        assert near.copies
        server.command("SET", KEYS[0], "new")
        await until(lambda: not near.copies)

    server.command("SET", KEYS[0], "old")
    with user(server, "-@all", "+get", "+client|tracking") as url:
        asyncio.run(main(url))


def test_what_is_forbidden_is_said_once_and_asked_again_over_new_connections_only(any_server, caplog):
    async def use(near: Near, seconds: float) -> None:
        await use_without_tracking(near, "ACL")
        await asyncio.sleep(seconds)
        await use_without_tracking(near, "ACL")

    with caplog.at_level(logging.INFO, "ractogateway"), user(any_server, "-client|tracking") as url:
        near = Near(async_port(url))
        any_server.command("CONFIG", "RESETSTAT")
        asyncio.run(use(near, 1.2 * BEAT_SECONDS))
        assert server_saw(any_server, "tracking") == 1
        asyncio.run(use(near, 0))
        assert server_saw(any_server, "tracking") == 2
    assert said(caplog) == ["near cache off: the ACL of Redis forbids this user CLIENT TRACKING"]


def server_saw(server: Server, subcommand: str) -> int:
    with server.client() as client:
        stats = client.info("commandstats").get(f"cmdstat_client|{subcommand}", {})
    return stats.get("calls", 0) + stats.get("rejected_calls", 0)


def test_what_was_forbidden_is_allowed_later(any_server, caplog):
    async def main(url: str) -> None:
        near = Near(async_port(url))
        await use_without_tracking(near, "ACL")
        any_server.command("ACL", "SETUSER", "somebody", "+client|tracking")
        any_server.command("CLIENT", "KILL", "USER", "somebody")
        await until(lambda: near.tracker.alive)
        assert near.tracker.supported
        assert not near.tracker.reason
        await near.get(KEYS[0])
        assert near.copies

    with caplog.at_level(logging.INFO, "ractogateway"), user(any_server, "-client|tracking") as url:
        asyncio.run(main(url))
    assert said(caplog) == [
        "near cache off: the ACL of Redis forbids this user CLIENT TRACKING",
        "near cache on: the server tracks again",
    ]


def test_a_server_that_does_not_know_it():
    with own_server(config={"rename-command": 'CLIENT ""'}) as server:
        asyncio.run(use_without_tracking(Near(async_port(server.url)), "knows no CLIENT TRACKING"))


def test_a_connection_that_speaks_resp2_only(any_server, monkeypatch):
    """Such a server would agree to track, and never say a word."""
    build = addresses._build
    monkeypatch.setattr(addresses, "_build", lambda url, _protocol, credentials: build(url, 2, credentials))
    asyncio.run(use_without_tracking(Near(async_port(any_server.url)), "RESP3"))


def test_a_server_without_hello():
    with own_server(config={"rename-command": 'HELLO ""'}) as server:

        async def main() -> None:
            near = Near(async_port(server.url, 0.2))
            _ = near.copies
            await until(lambda: near.tracker.reason)
            assert not near.tracker.supported
            with pytest.raises(StoreError):
                await near.get(KEYS[0])

        asyncio.run(main())


def test_a_redis_py_whose_connections_cannot_be_taken_over(any_server, monkeypatch):
    monkeypatch.setattr(Multiplexer, "can_take_over", staticmethod(lambda _connection: False))
    asyncio.run(use_without_tracking(Near(async_port(any_server.url)), "taken over"))


def test_a_cluster_is_not_tracked():
    async def main() -> None:
        near = Near(async_port("redis+cluster://127.0.0.1:1"))
        await until(lambda: near.tracker.reason)
        assert_holds_nothing(near, "cluster")

    asyncio.run(main())


def test_given_clients_are_refused(any_server):
    clients = [
        open_blocking_port(None, any_server.client(), None, LIMITS),
        open_blocking_port(None, fakeredis.FakeRedis(), None, LIMITS),
        open_async_port(None, redis.asyncio.Redis.from_url(any_server.url), None, LIMITS),
    ]
    for port in clients:
        with pytest.raises(InvalidValueError, match="url="):
            open_tracked_port(port)


# --- loops, threads, processes ---------------------------------------------------------------------------------------


def test_two_loops_and_the_private_thread(any_server):
    """Each hears for itself, and a write of one is gone from all before it returns."""
    everyone = threading.Barrier(3)
    any_server.command("MSET", KEYS[0], "old", KEYS[1], "old")

    async def visitor(*, writes: bool) -> None:
        near = await awaited_near(any_server.url)
        assert await near.get(KEYS[0]) == b"old"
        assert await near.get(KEYS[1]) == b"old"
        assert len(near.copies) == 2
        await asyncio.to_thread(everyone.wait, 5)
        if writes:
            with own_write(KEYS[0]):
                await near.port.run(put(KEYS[0], b"new"))
            assert all(KEYS[0] not in copies for copies in held)
        held.append(near.copies)
        await asyncio.to_thread(everyone.wait, 5)
        if writes:
            any_server.command("SET", KEYS[1], "new")
        await until(lambda: KEYS[1] not in near.copies)

    near = blocking_near(any_server.url)
    near.get_blocking(KEYS[0])
    near.get_blocking(KEYS[1])
    held = [near.copies]
    with ThreadPoolExecutor(2) as pool:
        visits = [pool.submit(asyncio.run, visitor(writes=writes)) for writes in (True, False)]
        everyone.wait(5)
        everyone.wait(5)
        for visit in visits:
            visit.result(5)
    wait_until(lambda: not near.copies)


def test_the_end_of_a_loop(any_server):
    """Copies go, the connection closes, and no request's context was in it."""
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    ended: list[tuple[Near, Copies]] = []

    class Curious(Copies):
        def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
            super().on_invalidate(keys)
            if keys is not None:
                seen.append(request.get())

    async def main() -> None:
        request.set("somebody's")
        near = Near(async_port(any_server.url))
        copies = near.tracker.listener(near, Curious)
        ended.append((near, copies))
        await until(lambda: near.tracker.alive)
        any_server.command("SET", KEYS[0], "value")
        await near.get(KEYS[0])
        any_server.command("SET", KEYS[0], "other")
        await until(lambda: seen)
        await near.get(KEYS[0])
        assert copies
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = connections(any_server)
    asyncio.run(main())
    assert seen == ["none"]
    (_, copies), *_ = ended
    assert copies.told[-1] is None
    assert not copies
    wait_until(lambda: connections(any_server) <= before, what="the connections being closed")


def connections(server: Server) -> int:
    with server.client() as client:
        return len(client.client_list(_type="normal"))


def test_nobody_listens_any_more(any_server):
    """The connection is not kept for nobody, and comes back for the next one."""

    async def main() -> None:
        near = await awaited_near(any_server.url)
        port, link = near.port, near.tracked._tracking_link()
        assert trackers(any_server)
        del near
        gc.collect()
        await until(lambda: link.closed)
        await until(lambda: not trackers(any_server))
        again = Near(port)
        _ = again.copies
        await until(lambda: again.tracker.alive)

    asyncio.run(main())


SCRIPT = """
    import asyncio, os, time
    from probing import *
    from servers import wait_until
    from ractogateway.redis.transport import drive
    from ractogateway.redis.transport.tracked_port import open_tracked_port

    class Copies(dict):
        def on_invalidate(self, keys):
            for key in list(self) if keys is None else keys:
                self.pop(key, None)

    class Near:
        def __init__(self, port):
            self.port, self.tracked = port, open_tracked_port(port)

        def copies(self):
            return self.tracked.tracker().listener(self, Copies)

        async def fill(self):
            value, fill = await self.tracked.fetch(get(b"near"))
            assert fill.keep(lambda: self.copies().__setitem__(b"near", value))
            return value

    blocking, awaited = Near(blocking_port(URL)), Near(async_port(URL))
    blocking.copies()

    def use_blocking():
        blocking.copies()
        wait_until(lambda: blocking.tracked.tracker().alive)
        run(blocking.port, put(b"near", b"value"))
        # The invalidation of this process's own write may refuse the first fill.
        wait_until(lambda: attempt(lambda: drive(blocking.fill())))
        assert blocking.copies()

    def attempt(fill):
        try:
            return fill() == b"value"
        except AssertionError:
            return False

    async def use_awaited():
        awaited.copies()
        while not awaited.tracked.tracker().alive:
            await asyncio.sleep(0.001)
        while True:
            try:
                return await awaited.fill()
            except AssertionError:
                await asyncio.sleep(0.001)
"""


def test_the_end_of_a_process(any_server):
    script = f"{SCRIPT}\n    use_blocking()\n    asyncio.run(use_awaited())\n    print('done')\n"
    assert run_script(script, any_server.url) == "done\n"


def test_a_forked_child(any_server):
    """It serves none of its parent's copies, tracks over connections of its own, and leaves the parent's alone."""
    source = """
    use_blocking()
    inherited = blocking.tracked.tracker()

    async def main():
        await use_awaited()
        tracker, copies = awaited.tracked.tracker(), awaited.copies()
        pid = os.fork()
        if not pid:
            try:
                assert not inherited.alive and not tracker.alive
                assert not inherited.begin((b"near",)).keep(lambda: None)
                assert blocking.tracked.tracker() is not inherited
                use_blocking()
                asyncio.events._set_running_loop(None)
                asyncio.run(use_awaited())
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        ended = await asyncio.to_thread(os.waitpid, pid, 0)
        assert ended[1] == 0, ended
        while copies:  # the child's write
            await asyncio.sleep(0.001)
        wait_until(lambda: not inherited.listener(blocking, Copies))
        assert tracker.alive and inherited.alive
        assert awaited.tracked.tracker() is tracker and blocking.tracked.tracker() is inherited

    asyncio.run(main())
    use_blocking()
    print("done")
    """
    assert run_script(f"{SCRIPT}\n{source}", any_server.url) == "done\n"
