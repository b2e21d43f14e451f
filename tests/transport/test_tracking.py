"""A near cache built as `ractogateway.redis.transport.tracking` says never serves what it was told, or should have
noticed, to be stale."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from near_copies import BOUND_SECONDS, KEYS, Copies, Near, awaited_near, blocking_near, trackers, until
from probing import get, incr, put, run
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import StoreUnavailable
from ractogateway.redis.transport import Script, plain_call, script_call
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.tracking import BEAT_SECONDS, Tracker, forget, own_write
from ractogateway.redis.transport.tracking_link import TrackingLink

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


def test_a_heartbeat_proves_what_was_so_when_it_was_sent():
    """Its answer may have been under way, or unread, for long: what was pushed since may not have come."""
    tracker = Tracker()
    heart = SimpleNamespace(tracker=tracker, _heartbeat=None)
    for ago, alive in ((0.0, True), (BOUND_SECONDS, False)):
        heartbeat = SimpleNamespace(failure=None, asked_at=time.monotonic() - ago)
        TrackingLink.answered(heart, heartbeat)
        assert tracker.alive is alive
