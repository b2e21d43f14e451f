"""Calls that are sent at intervals, for every kind of caller: they go on while their maker is busy, and end with it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis
import redis.asyncio
from anyio.from_thread import start_blocking_portal
from probing import async_port, blocking_port, own_server, run, run_script
from servers import Server, wait_until

from ractogateway.redis.transport import (
    Call,
    Heartbeat,
    Port,
    TimeLimits,
    open_async_port,
    open_blocking_port,
    open_worker_port,
    plain_call,
)

INTERVAL = 0.01
LIMITS = TimeLimits(5.0, 5.0)
KINDS = ["async url", "async client", "blocking url", "blocking client", "aio of client"]
NEVER = 2**40


def beat(key: str, until: int = NEVER) -> Call[bool]:
    """Counts itself; False from the ``until``-th on."""
    return plain_call(b"INCR", (key.encode(),), (), lambda count: int(count) < until, replay_safe=False)


class Maker:
    """Starts heartbeats of one kind."""

    def __init__(self, kind: str, server: Server, stack: ExitStack) -> None:
        self._portal = None
        if not kind.startswith("blocking"):
            self._portal = stack.enter_context(start_blocking_portal())
        self.port = self._call(lambda: self._open(kind, server, stack))

    def _open(self, kind: str, server: Server, stack: ExitStack) -> Port:
        if kind == "async url":
            return async_port(server.url)
        if kind == "blocking url":
            return blocking_port(server.url)
        if kind == "async client":
            client = redis.asyncio.Redis.from_url(server.url)
            stack.callback(self._portal.call, client.aclose)
            return open_async_port(None, client, None, LIMITS)
        client = redis.Redis.from_url(server.url)
        stack.callback(client.close)
        opening = open_blocking_port if kind == "blocking client" else open_worker_port
        return opening(None, client, None, LIMITS)

    def _call(self, function: Callable[[], object]) -> object:
        return function() if self._portal is None else self._portal.call(function)

    def every(self, seconds: float, call: Call[bool]) -> Heartbeat:
        return self._call(lambda: self.port.every(seconds, call))


@pytest.fixture(params=KINDS)
def maker(request: pytest.FixtureRequest, any_server: Server) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(request.param, any_server, stack)


def count(server: Server, key: str = "beats") -> int:
    return int(server.command("GET", key) or 0)


def assert_silent(server: Server, *keys: str) -> None:
    """Nothing more is counted, for many intervals; what was under way when it stopped may still arrive."""
    time.sleep(2 * INTERVAL)
    before = [count(server, key) for key in keys]
    time.sleep(20 * INTERVAL)
    assert [count(server, key) for key in keys] == before


def test_it_beats_until_it_is_stopped(maker, any_server):
    heartbeat = maker.every(INTERVAL, beat("beats"))
    wait_until(lambda: count(any_server) >= 5, what="five beats")
    heartbeat.stop()
    heartbeat.stop()
    assert_silent(any_server, "beats")
    assert not heartbeat.ended


def test_the_first_beat_comes_after_one_interval(maker, any_server):
    start = time.monotonic()
    heartbeat = maker.every(0.2, beat("beats"))
    wait_until(lambda: count(any_server), what="a beat")
    assert time.monotonic() - start >= 0.2
    heartbeat.stop()


def test_it_ends_when_what_it_keeps_alive_is_gone(maker, any_server):
    heartbeat = maker.every(INTERVAL, beat("beats", until=3))
    wait_until(lambda: heartbeat.ended, what="the end")
    assert_silent(any_server, "beats")
    assert count(any_server) == 3


def test_a_forgotten_one_ends(maker, any_server):
    heartbeat = maker.every(INTERVAL, beat("beats"))
    wait_until(lambda: count(any_server), what="a beat")
    del heartbeat
    gc.collect()
    assert_silent(any_server, "beats")


def test_each_has_its_own_pace(maker, any_server):
    slow = maker.every(60.0, beat("slow"))
    fast = [maker.every(INTERVAL, beat(f"fast {number}")) for number in range(5)]
    wait_until(lambda: all(count(any_server, f"fast {number}") >= 3 for number in range(5)), what="beats of all")
    for heartbeat in fast:
        heartbeat.stop()
    assert_silent(any_server, *(f"fast {number}" for number in range(5)))
    assert count(any_server, "slow") == 0
    late = maker.every(INTERVAL, beat("late"))
    wait_until(lambda: count(any_server, "late"), what="a beat of one that was started later and is due sooner")
    late.stop()
    slow.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_an_outage_is_outlived(kind):
    with own_server() as server, ExitStack() as stack:
        maker = Maker(kind, server, stack)
        heartbeat = maker.every(INTERVAL, beat("beats"))
        wait_until(lambda: count(server), what="a beat")
        server.kill()
        time.sleep(5 * INTERVAL)
        server.revive()
        wait_until(lambda: count(server), what="a beat after the restart")
        assert not heartbeat.ended
        heartbeat.stop()


def test_it_goes_on_while_a_blocking_caller_is_busy(any_server):
    """The beats are another thread's, so nothing that the caller does or waits for can stop them."""
    for port in (blocking_port(any_server.url), open_blocking_port(None, _client(any_server), None, LIMITS)):
        any_server.flush()
        heartbeat = port.every(INTERVAL, beat("beats"))
        lock = threading.Lock()
        lock.acquire()
        lock.acquire(timeout=30 * INTERVAL)
        assert count(any_server) >= 3
        heartbeat.stop()


def _client(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_many_that_were_stopped_leave_nothing_behind(maker, any_server):
    kept = maker.every(60.0, beat("beats"))
    pacemaker = kept._pulse.pacemaker
    for _ in range(1000):
        maker.every(60.0, beat("beats")).stop()
    assert len(pacemaker._waiting) < 300
    kept.stop()


def test_it_carries_no_context_of_its_maker(any_server):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    def parse(reply: object) -> bool:
        seen.append(variable.get())
        return True

    call = plain_call(b"PING", (), (), parse, replay_safe=True)

    async def main() -> None:
        variable.set("of a request")
        heartbeat = async_port(any_server.url).every(INTERVAL, call)
        await asyncio.to_thread(wait_until, lambda: seen, what="a beat in this loop")
        heartbeat.stop()

    asyncio.run(main())
    variable.set("of a request")
    blocking = blocking_port(any_server.url)
    seen_before = len(seen)
    heartbeat = blocking.every(INTERVAL, call)
    wait_until(lambda: len(seen) > seen_before, what="a beat in the private thread")
    heartbeat.stop()
    assert set(seen) == {"none"}


def test_a_heartbeat_keeps_no_connection_of_a_closed_object_open(any_server):
    port = blocking_port(any_server.url, stall_seconds=7.5)
    run(port, beat("beats"))
    heartbeat = port.every(60.0, beat("beats"))
    assert len(port._endpoint.users) == 1
    heartbeat.stop()


def test_a_loop_that_ends_is_left_with_nothing(any_server):
    """Beats that fall due while the loop shuts down are not sent: they would open connections that nobody closes."""
    run_script(
        """
        import asyncio, time
        from probing import async_port
        from ractogateway.redis.transport import plain_call

        BEAT = plain_call(b"INCR", (b"beats",), (), bool, replay_safe=False)

        async def slow_to_close():
            try:
                yield
            finally:
                for _ in range(50):
                    await asyncio.sleep(0.001)

        async def main():
            kept = [async_port(URL).every(0.001, BEAT) for _ in range(20)]
            generator = slow_to_close()
            await anext(generator)
            await asyncio.sleep(0.02)
            return kept, generator

        for _ in range(5):
            asyncio.run(main())
        """,
        any_server.url,
    )


def test_forks_loops_and_exit(any_server):
    """A child keeps alive nothing of its parent's, a closed loop's beats are over, and nothing hangs or warns."""
    run_script(
        """
        import asyncio, os, time
        import redis
        from probing import async_port, blocking_port, get, run
        from ractogateway.redis.transport import TimeLimits, open_blocking_port, plain_call

        def beat(key):
            return plain_call(b"INCR", (key,), (), bool, replay_safe=False)

        def wait_for(key, more=0):
            until = time.monotonic() + 10
            while int(run(blocking, get(key)) or 0) <= more:
                assert time.monotonic() < until, key
                time.sleep(0.002)

        async def in_loop(key):
            heartbeat = async_port(URL).every(0.005, beat(key))
            await asyncio.sleep(0.05)
            return heartbeat

        blocking = blocking_port(URL)
        given = open_blocking_port(None, redis.Redis.from_url(URL), None, TimeLimits(5.0, 5.0))
        left_by_a_loop = asyncio.run(in_loop(b"loop"))
        kept = [blocking.every(0.005, beat(b"thread")), given.every(0.005, beat(b"client"))]
        for key in (b"loop", b"thread", b"client"):
            wait_for(key)
        pid = os.fork()
        if pid == 0:
            # The handles are here, the beats are the parent's; and new ones beat.
            own = [blocking.every(0.005, beat(b"child thread")), given.every(0.005, beat(b"child client"))]
            own.append(asyncio.run(in_loop(b"child loop")))
            for key in (b"child thread", b"child client", b"child loop"):
                wait_for(key)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for key in (b"thread", b"client"):
            wait_for(key, more=int(run(blocking, get(key))) + 2)
        """,
        any_server.url,
    )
