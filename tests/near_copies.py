"""The smallest near cache, for the tests of what keeps one coherent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from probing import async_port, blocking_port, get
from servers import Server, wait_until

from ractogateway.redis.transport import Port, TimeLimits, drive
from ractogateway.redis.transport.tracked_port import open_tracked_port
from ractogateway.redis.transport.tracking import BEAT_SECONDS, PATIENCE_SECONDS, Tracker

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


def trackers(server: Server) -> list[str]:
    """The ids of all connections that track."""
    with server.client() as client:
        return [each["id"] for each in client.client_list(_type="normal") if "t" in each["flags"]]
