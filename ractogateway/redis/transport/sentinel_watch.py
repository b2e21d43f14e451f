"""Leaving a primary that is not the primary any more.

After a failover that somebody asked for (``SENTINEL FAILOVER``, an upgrade) the old primary goes on serving writes for
about ten seconds, until a Sentinel makes it a replica; all of them are lost then. And a connection to a host that has
vanished does not notice before it is used. So while there are connections to a primary, a Sentinel is asked once a
second who it is; where that has changed, and the new one confirms it, the connections to the old one are cut. Their
links then connect to the new one, and calls that may be sent again are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import Any, Protocol

from ractogateway.errors import StoreError
from ractogateway.redis.transport.address import disconnect_quietly
from ractogateway.redis.transport.hosts import Host

PERIOD_SECONDS = 1.0

_WATCHES = "_ractogateway_sentinel_watches"


class Informant(Protocol):
    """A `SentinelAddress`, as its watch sees it."""

    url: str

    async def open_sentinel(self) -> Any:
        """A connection to a Sentinel that answers."""
        ...

    async def named_by(self, sentinel: Any) -> Host | None:
        """What the Sentinel at the other end of this connection calls the primary."""
        ...

    async def find(self, seconds: float) -> tuple[Host, Any]:
        """A server that is the primary by its own account, too, and a connection to it."""
        ...


def watch_over(connection: Any, primary: Host, address: Informant) -> None:
    """Cut this connection when its server stops being the primary. Call it in the connection's loop."""
    loop = asyncio.get_running_loop()
    # On the loop itself, so that they die together; see `links`.
    watches: dict[str, _Watch] = loop.__dict__.setdefault(_WATCHES, {})
    watch = watches.get(address.url)
    if watch is None:
        watch = watches[address.url] = _Watch(loop, address)
    watch.add(connection, primary)


class _Watch:
    """Of one loop over one service. All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Informant) -> None:
        self._loop = loop
        self._address = address
        self._primaries: weakref.WeakKeyDictionary[Any, Host] = weakref.WeakKeyDictionary()
        self._sentinel: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closer: AsyncGenerator[None, None] | None = None
        self._owner = os.getpid()

    def add(self, connection: Any, primary: Host) -> None:
        self._primaries[connection] = primary
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD_SECONDS, self._look_soon, context=Context())

    def _look_soon(self) -> None:
        self._timer = None
        if os.getpid() != self._owner:  # a child that goes on in its parent's loop: this connection is the parent's
            return
        if self._looking is None:
            self._looking = self._loop.create_task(self._look(), context=Context())

    async def _look(self) -> None:
        try:
            if not self._live():
                await self.aclose()
                return
            async with asyncio.timeout(PERIOD_SECONDS):
                await self._compare()
            self._timer = self._loop.call_later(PERIOD_SECONDS, self._look_soon, context=Context())
        except (StoreError, TimeoutError):  # next time another Sentinel may answer
            await self._forget_sentinel()
            self._timer = self._loop.call_later(PERIOD_SECONDS, self._look_soon, context=Context())
        finally:
            self._looking = None

    async def _compare(self) -> None:
        if self._sentinel is None:
            if self._closer is None:
                self._closer = _until_the_loop_ends(self)
                await anext(self._closer)
            self._sentinel = await self._address.open_sentinel()
        named = await self._address.named_by(self._sentinel)
        if named is None or all(primary == named for _, primary in self._live()):
            return
        # This Sentinel may be the one that is wrong: the server itself decides.
        primary, connection = await self._address.find(PERIOD_SECONDS)
        await disconnect_quietly(connection)
        for old, host in self._live():
            if host != primary:
                old._writer.transport.abort()  # noqa: SLF001 - redis-py's way to close it would wait for the old server

    def _live(self) -> list[tuple[Any, Host]]:
        return [(connection, host) for connection, host in self._primaries.items() if connection.is_connected]

    async def _forget_sentinel(self) -> None:
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            await disconnect_quietly(sentinel)

    async def aclose(self) -> None:
        """Stop, until the next connection is made."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        looking = self._looking
        if looking is not None and looking is not asyncio.current_task():
            looking.cancel()
            await asyncio.wait([looking])
        await self._forget_sentinel()
        closer, self._closer = self._closer, None
        if closer is not None:
            with contextlib.suppress(RuntimeError):  # it is what brought us here
                await closer.aclose()


async def _until_the_loop_ends(watch: _Watch) -> AsyncGenerator[None, None]:
    """Suspended until its loop shuts its asynchronous generators down; see `link`."""
    try:
        yield
    finally:
        await watch.aclose()
