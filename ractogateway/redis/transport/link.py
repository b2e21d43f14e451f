"""The way from one event loop to one endpoint: made on first use, again after it was lost, shared by all callers.

A link owns at most one connection at a time. While it connects, commands wait in its queue; all of them share the one
attempt and its outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import Any

from redis import exceptions as redis_errors

from ractogateway.errors import NotSent, StoreError
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.forking import immortalise
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.stream_wire import StreamWire

_IDLE_GRACE_SECONDS = 10.0
"""How long a connection that no object refers to any more is kept for the next one."""


_TICK_SECONDS = 0.01
"""How late the end of a caller's time may be noticed."""


class Link:
    """All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        self.loop = loop
        self.closed = False
        self._options = endpoint.options
        self._address = endpoint.address
        # Weak, because a link must not keep alive the reference count that decides over its own end.
        self._endpoint = weakref.ref(endpoint)
        self._queue: deque[Exchange] = deque()
        self._wire: Multiplexer | StreamWire | None = None  # takes new commands
        self._wires: list[Multiplexer | StreamWire] = []  # that one, and retired ones that still owe replies
        self._connecting: asyncio.Task[None] | None = None
        self._closer: AsyncGenerator[None, None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        # One a link: a context can be entered by one thread at a time, and other loops run in other threads.
        self._context = Context()

    @property
    def connected(self) -> bool:
        """Whether a command could leave without connecting first."""
        return self._wire is not None and self._wire.usable

    def belongs_to(self, endpoint: Endpoint) -> bool:
        """Whether this link counts among the endpoint's."""
        return self._endpoint() is endpoint

    def adopt(self, endpoint: Endpoint) -> None:
        """A new owner of the same address and options: the connection lives on with it."""
        self._endpoint = weakref.ref(endpoint)

    def submit(self, exchange: Exchange) -> None:
        """Send the commands, or keep them until there is a connection."""
        if self._ticker is None:
            self._ticker = self.loop.call_later(_TICK_SECONDS, self._tick, context=self._context)
        wire = self._wire
        if wire is not None and wire.usable:
            wire.submit(exchange)
        elif self.closed:
            exchange.finish(NotSent("the connection was closed"))
        else:
            self._queue.append(exchange)
            if self._connecting is None:
                # An empty context: neither this task nor the connection that it opens belongs to the request that
                # happened to come first.
                self._connecting = self.loop.create_task(self._connect(), context=Context())

    def _tick(self) -> None:
        """Look for callers whose time is up.

        One timer for all that is under way, running only while something is: a timer for each command would be a tenth
        of the command's whole cost.
        """
        self._ticker = None
        under_way = [*self._queue]
        for wire in self._wires:
            under_way += wire.pending()
        now = time.monotonic()
        for exchange in under_way:
            if exchange.deadline <= now:
                exchange.expire()
        if under_way:
            self._ticker = self.loop.call_later(_TICK_SECONDS, self._tick, context=self._context)

    def retire(self) -> None:
        """The last owner is gone: close after a grace, unless a new one comes first."""
        if not self.closed:
            self.loop.call_later(_IDLE_GRACE_SECONDS, self._close_if_ownerless, context=Context())

    def _close_if_ownerless(self) -> None:
        if self._endpoint() is None and not self.closed:
            self._connecting = self.loop.create_task(self.aclose(), context=Context())

    async def aclose(self) -> None:
        """Close the connection; whatever waits is told."""
        self.closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None and connecting is not asyncio.current_task():
            connecting.cancel()
            await asyncio.wait([connecting])
        self._refuse_queue(NotSent("the connection was closed"))
        for wire in list(self._wires):
            await wire.aclose(failures.lost_connection(EOFError()))
        closer, self._closer = self._closer, None
        if closer is not None:
            # Finds the link closed. Where the generator itself is what brought us here, it is running: nothing to do.
            with contextlib.suppress(RuntimeError):
                await closer.aclose()

    async def _connect(self) -> None:
        try:
            self._wire = wire = await self._open_wire()
            self._wires.append(wire)
            while self._queue:
                wire.submit(self._queue.popleft())
        except StoreError as failure:
            self._refuse_queue(failure)
        except BaseException:
            # The loop is shutting down, or this is a bug of ours; either way nobody may be left waiting.
            self._refuse_queue(NotSent("the event loop is shutting down"))
            raise
        finally:
            self._connecting = None

    async def _open_wire(self) -> Multiplexer | StreamWire:
        connection = await self._address.connection()
        try:
            async with asyncio.timeout(self._options.connect_timeout_seconds):
                await connection.connect()
            if self._closer is None:
                self._closer = _until_the_loop_ends(weakref.ref(self))
                await anext(self._closer)
            if Multiplexer.can_take_over(connection):
                return Multiplexer.take_over(connection, self._options, self._on_lost)
            return StreamWire(connection, self._options, self._on_lost)
        except (redis_errors.RedisError, OSError, EOFError) as error:
            await _disconnect_quietly(connection)
            raise failures.connect_error(error) from error
        except BaseException:
            await _disconnect_quietly(connection)
            raise

    def _on_lost(self, wire: Multiplexer | StreamWire) -> None:
        self._wires.remove(wire)
        if self._wire is wire:
            self._wire = None

    def _refuse_queue(self, failure: StoreError) -> None:
        while self._queue:
            self._queue.popleft().finish(failure)


async def _disconnect_quietly(connection: Any) -> None:
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)


async def _until_the_loop_ends(reference: weakref.ref[Link]) -> AsyncGenerator[None, None]:
    """Suspended until its loop shuts its asynchronous generators down, as asyncio.run does: the loop's own farewell."""
    try:
        yield
    finally:
        link = reference()
        if link is not None and not link.closed:
            await link.aclose()


# --- the links of a loop ---------------------------------------------------------------------------------------------

_LINKS = "_ractogateway_links"
_all_links: weakref.WeakSet[Link] = weakref.WeakSet()


def link_for(loop: asyncio.AbstractEventLoop, endpoint: Endpoint, *, bulky: bool = False) -> Link:
    """The link to this endpoint in this (running) loop; there is one for small replies and one for bulky ones.

    The links live on the loop itself, so they die with it. A registry keyed weakly by the loop would not do: a link
    refers to its loop, and the registry's value would keep its own key alive.
    """
    links: dict[str, Link] | None = loop.__dict__.get(_LINKS)
    if links is None:
        links = loop.__dict__[_LINKS] = {}
    key = endpoint.bulky_key if bulky else endpoint.key
    link = links.get(key)
    if link is None or link.closed:
        link = links[key] = Link(loop, endpoint)
        endpoint.links.append(weakref.ref(link))
        _all_links.add(link)
    elif not link.belongs_to(endpoint):
        link.adopt(endpoint)
        endpoint.links.append(weakref.ref(link))
    return link


def bury_inherited_links() -> None:
    """In a forked child: never touch the parent's connections again.

    Closing one, or merely letting it be collected, would write to the parent's socket or edit the epoll set that the
    two processes share. So they are made immortal, not closed.
    """
    for link in list(_all_links):
        immortalise(link)
        link.loop.__dict__.pop(_LINKS, None)
    _all_links.clear()


def peek_link(loop: asyncio.AbstractEventLoop, key: str) -> Link | None:
    """The link with this key (of an endpoint) in this loop, if there is one."""
    links: dict[str, Link] = loop.__dict__.get(_LINKS, {})
    return links.get(key)


async def close_links(loop: asyncio.AbstractEventLoop) -> None:
    """Close all links of this (running) loop."""
    for link in list(loop.__dict__.get(_LINKS, {}).values()):
        await link.aclose()
