"""No reply reaches a caller it was not meant for, and nobody waits for ever: every reply is checked, a third of the
calls are left in the middle, and the connections are killed, delayed, split and dropped under them.

The other calls may be sent again and have time enough: not one of them may fail."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from probing import async_port, blocking_port, echo, get, get_wordily, put, run, run_many
from proxy import Proxy
from servers import Server

from ractogateway.errors import RactoGatewayError, StoreUnavailable
from ractogateway.redis.transport import Port, plain_call

HASTY_SECONDS = (0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016)
"""Time limits of calls whose callers are meant to give up while the reply is on its way."""


@dataclass
class Tally:
    """What became of the calls of a storm."""

    goal: int
    checked: int = 0
    wrong: int = 0
    left: int = 0
    unsent: int = 0

    @property
    def over(self) -> bool:
        return self.checked >= self.goal and self.stormy

    @property
    def stormy(self) -> bool:
        """Whether many have left, and some of them in mid-call: a fast machine takes longer to get there."""
        return self.left >= 20 and self.left + self.unsent > self.goal // 20

    def check(self, got: object, expected: object) -> None:
        self.checked += 1
        self.wrong += got != expected

    def gave_up(self, error: StoreUnavailable) -> None:
        """A hasty caller's time ran out: in mid-call, or before the command was sent."""
        self.left += error.may_have_applied
        self.unsent += not error.may_have_applied

    def verdict(self) -> None:
        assert self.wrong == 0
        assert self.checked >= self.goal
        assert self.stormy, f"hardly anybody left: {self}"


class Requests:
    """The calls of one caller; each reply tells whose it is."""

    def __init__(self, number: int, seed: int) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.key = b"storm:%d" % number
        self.value = b"value of %d" % number
        self._number = number
        self._count = 0

    def token(self) -> bytes:
        self._count += 1
        # Mostly small; now and then larger than any buffer on the way.
        size = self.random.choice((0, 0, 0, 10, 100, 1000)) if self.random.random() < 0.995 else 300_000
        return b"%d:%d:" % (self._number, self._count) + b"x" * size


# --- callers that await ----------------------------------------------------------------------------------------------


async def awaiting(url: str, goal: int, *, seed: int, callers: int = 64, **options: float) -> Tally:
    tally = Tally(goal)
    port = async_port(url, 10.0, **options)
    hasty = [async_port(url, seconds, **options) for seconds in HASTY_SECONDS]
    async with asyncio.timeout(20 + goal / 500):  # hung callers show here
        await asyncio.gather(*(awaiting_caller(Requests(n, seed), port, hasty, tally) for n in range(callers)))
    return tally


async def awaiting_caller(requests: Requests, port: Port, hasty: list[Port], tally: Tally) -> None:
    choose = requests.random
    await port.run(put(requests.key, requests.value))
    while not tally.over:
        token, fate = requests.token(), choose.random()
        if fate < 0.3:
            await left_alone(port, requests, choose.randrange(5), tally)
        elif fate < 0.35:
            try:
                tally.check(await choose.choice(hasty).run(echo(token)), token)
            except StoreUnavailable as error:
                tally.gave_up(error)
        elif fate < 0.4:
            tally.check(await port.run_many([echo(token), get(requests.key)]), [token, requests.value])
        elif fate < 0.5:
            tally.check(set(await port.run(get_wordily(requests.key))), {requests.value})
        elif fate < 0.6:
            tally.check(await port.run(get(requests.key)), requests.value)
        else:
            tally.check(await port.run(echo(token)), token)


async def left_alone(port: Port, requests: Requests, ticks: int, tally: Tally) -> None:
    """A call that is cancelled after some turns of the event loop, unless it is done by then."""
    token = requests.token()
    task = asyncio.create_task(port.run(echo(token)))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if task.cancelled():
        tally.left += 1
    elif (error := task.exception()) is not None:
        raise error
    else:
        tally.check(task.result(), token)


# --- callers that block ----------------------------------------------------------------------------------------------


def blocking(url: str, goal: int, *, seed: int, callers: int = 16, **options: float) -> Tally:
    tally = Tally(goal)
    port = blocking_port(url, 10.0, **options)
    hasty = [blocking_port(url, seconds, **options) for seconds in HASTY_SECONDS]
    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(blocking_caller, Requests(n, seed), port, hasty, tally) for n in range(callers)]
        done, hung = wait(calls, timeout=20 + goal / 500, return_when=FIRST_EXCEPTION)
        if hung:
            tally.goal, tally.left = 0, 20  # lets the others end
        for call in done:
            call.result()
    assert not hung, "a caller hangs"
    return tally


def blocking_caller(requests: Requests, port: Port, hasty: list[Port], tally: Tally) -> None:
    choose = requests.random
    run(port, put(requests.key, requests.value))
    while not tally.over:
        token, fate = requests.token(), choose.random()
        if fate < 0.35:
            try:
                tally.check(run(choose.choice(hasty), echo(token)), token)
            except StoreUnavailable as error:
                tally.gave_up(error)
        elif fate < 0.4:
            tally.check(run_many(port, echo(token), get(requests.key)), [token, requests.value])
        elif fate < 0.6:
            tally.check(run(port, get(requests.key)), requests.value)
        else:
            tally.check(run(port, echo(token)), token)


# --- weather ---------------------------------------------------------------------------------------------------------


@contextmanager
def connections_killed(server: Server, every_seconds: float) -> Iterator[None]:
    """All connections but our own are closed by the server again and again."""
    over = threading.Event()

    def kill() -> None:
        with server.client() as client:
            while not over.wait(every_seconds):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


@contextmanager
def bad_network(server: Server, *, unix: bool = False) -> Iterator[Proxy]:
    """Delays, pieces, lost replies and cuts, in turns."""
    over = threading.Event()
    turns = [
        {"delay_seconds": 0.002},
        {"split_bytes": 40},
        {"lose_one_in": 40},
        {"split_bytes": 400, "delay_seconds": 0.001, "lose_one_in": 100},
        {"lose_one_in": 60, "after_loss": "silence"},
        {},
    ]

    def rage() -> None:
        turn = 0
        while not over.wait(0.04):
            proxy.faults(**turns[turn % len(turns)])
            turn += 1
            if turn % 4 == 0:
                proxy.cut()

    with Proxy(server.url, seed=11, unix=unix) as proxy:
        weather = threading.Thread(target=rage)
        weather.start()
        try:
            yield proxy
        finally:
            over.set()
            weather.join()
            proxy.faults()


# --- the tests -------------------------------------------------------------------------------------------------------


def test_awaiting_callers_while_connections_are_killed(any_server):
    with connections_killed(any_server, 0.02):
        asyncio.run(awaiting(any_server.url, 15_000, seed=1)).verdict()


def test_blocking_callers_while_connections_are_killed(any_server):
    with connections_killed(any_server, 0.02):
        blocking(any_server.url, 8_000, seed=2).verdict()


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_awaiting_callers_over_a_bad_network(any_server, unix):
    with bad_network(any_server, unix=unix) as proxy:
        asyncio.run(awaiting(proxy.url, 3_000, seed=3, stall_seconds=0.1)).verdict()
        assert proxy.lost


def test_blocking_callers_over_a_bad_network(any_server):
    with bad_network(any_server) as proxy:
        blocking(proxy.url, 2_000, seed=4, stall_seconds=0.1).verdict()
        assert proxy.lost


def test_the_storm_passes(any_server):
    """Afterwards the connections are as many as before, and the same objects work."""

    async def main() -> None:
        port = async_port(any_server.url)
        await port.run(echo(b"calm"))
        before = connections(any_server)
        with connections_killed(any_server, 0.01):
            await awaiting(any_server.url, 2_000, seed=5)
        assert await port.run(echo(b"calm again")) == b"calm again"
        await asyncio.sleep(0)
        deadline = time.monotonic() + 5
        while (now := connections(any_server)) > before:
            assert time.monotonic() < deadline, f"{now} connections after the storm, {before} before"
            await asyncio.sleep(0.01)

    asyncio.run(main())


def connections(server: Server) -> int:
    with server.client() as client:
        return len(client.client_list(_type="normal"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["awaiting", "blocking"])
def test_a_long_storm_of_kills(any_server, kind):
    """Half a million checked replies a kind."""
    with connections_killed(any_server, 0.05):
        if kind == "awaiting":
            asyncio.run(awaiting(any_server.url, 500_000, seed=6, callers=200)).verdict()
        else:
            blocking(any_server.url, 500_000, seed=7, callers=32).verdict()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["awaiting", "blocking"])
def test_a_long_storm_over_a_bad_network(any_server, kind):
    """Fewer, as every byte passes a proxy written in Python. Fewer callers, too: a lost reply takes the connection with
    it, and of many who share it most would have to start again, over and over."""
    with bad_network(any_server) as proxy:
        if kind == "awaiting":
            asyncio.run(awaiting(proxy.url, 60_000, seed=8, callers=32, stall_seconds=0.2)).verdict()
        else:
            blocking(proxy.url, 60_000, seed=9, callers=16, stall_seconds=0.2).verdict()
        assert proxy.lost


@pytest.mark.parametrize("unsendable", [None, "\ud800"])
def test_what_cannot_be_packed_is_its_callers_affair_alone(any_server, unsendable):
    """Also where it is found while somebody else's command is sent, before the tick ends."""

    async def main() -> list[object]:
        port = async_port(any_server.url)
        bad = plain_call(b"ECHO", (), (unsendable,), bytes, replay_safe=True)
        wordy = [port.run(get_wordily(b"key")) for _ in range(20)]
        async with asyncio.timeout(20):  # hung callers show here
            return await asyncio.gather(port.run(echo(b"first")), port.run(bad), *wordy, return_exceptions=True)

    first, refused, *others = asyncio.run(main())
    assert first == b"first"
    assert isinstance(refused, RactoGatewayError)
    assert others == [[None] * 100] * 20
