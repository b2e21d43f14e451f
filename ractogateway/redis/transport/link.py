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
from collections.abc import AsyncGenerator, Iterable
from contextvars import Context
from typing import Protocol

from ractogateway.errors import NotSent, RactoGatewayError, StoreError
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.address import closed_on_failure
from ractogateway.redis.transport.credentials import Renewal
from ractogateway.redis.transport.direct_multiplexer import DirectMultiplexer
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.stream_wire import StreamWire

_IDLE_GRACE_SECONDS = 10.0
"""How long a connection that no object refers to any more is kept for the next one."""


_TICK_SECONDS = 0.01
"""How late the end of a caller's time may be noticed."""

_STALL_SECONDS = 0.02
"""A loop whose timer is so late has stood still, and with it everything that was to be sent or read."""

_GRACE_SECONDS = 0.05
"""What a caller gets on top, once, whose time ran out while its loop stood still: it is not Redis that was late."""


class Wire(Protocol):
    """What a link sends by: a connection, or something that looks like one."""

    @property
    def usable(self) -> bool:
        """Whether commands may still be submitted."""
        ...

    def pending(self) -> Iterable[Exchange]:
        """Whatever is not answered yet."""
        ...

    def submit(self, exchange: Exchange) -> None:
        """Send the commands, each at most once, and finish the exchange."""
        ...

    async def aclose(self, failure: StoreError) -> None:
        """Close at once; whoever still waits gets ``failure``."""
        ...


class Link:
    """All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        self.loop = loop
        self.closed = False
        self.short_cut = False  # callers in other threads use it, too
        self._options = endpoint.options
        self._address = endpoint.address
        if endpoint.address.credentials is not None:
            endpoint.address.credentials.enlist(self)
        # Weak, because a link must not keep alive the reference count that decides over its own end.
        self._endpoint = weakref.ref(endpoint)
        self._queue: deque[Exchange] = deque()
        self._wire: Wire | None = None  # takes new commands
        self._wires: list[Wire] = []  # that one, and retired ones that still owe replies
        self._connecting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
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

    def submit_from_outside(self, exchange: Exchange) -> DirectMultiplexer | None:
        """Send from another thread than the loop's, if that is possible at once: the connection that took it."""
        wire = self._wire
        return wire if isinstance(wire, DirectMultiplexer) and wire.submit_from_outside(exchange) else None

    def _tick(self) -> None:
        """Look for callers whose time is up.

        One timer for all that is under way, running only while something is: a timer for each command would be a tenth
        of the command's whole cost.
        """
        stood_still = self._ticker is not None and self.loop.time() - self._ticker.when() > _STALL_SECONDS
        self._ticker = None
        under_way = [*self._queue]
        for wire in self._wires:
            under_way += wire.pending()
        now = time.monotonic()
        for exchange in under_way:
            if exchange.deadline <= now and not (stood_still and exchange.grant(now + _GRACE_SECONDS)):
                exchange.expire()
        if under_way:
            self._ticker = self.loop.call_later(_TICK_SECONDS, self._tick, context=self._context)

    def authenticate(self, exchange: Renewal) -> None:
        """The credentials were renewed: say so on every connection that is still in use."""
        for wire in self._wires:
            if wire.usable:
                wire.submit(exchange.again())

    def retire(self) -> None:
        """The last owner is gone: close after a grace, unless a new one comes first."""
        if not self.closed:
            self.loop.call_later(_IDLE_GRACE_SECONDS, self._close_if_ownerless, context=Context())

    def _close_if_ownerless(self) -> None:
        if self._endpoint() is None:
            self.close_soon()

    def close_soon(self) -> None:
        """Close the connection in a task of the loop; whoever comes before it runs gets a new link."""
        if not self.closed:
            self.closed = True
            self._closing = self.loop.create_task(self.aclose(), context=Context())

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
            wire = await self._open_wire()
            self._wires.append(wire)
            await self._prepare(wire)
            if isinstance(wire, DirectMultiplexer):
                with contextlib.suppress(OSError):  # no descriptor left: then without
                    wire.open_short_cut()
            if wire.usable:
                self._wire = wire
                while self._queue:
                    wire.submit(self._queue.popleft())
            else:  # lost again meanwhile; it has told nobody, for nobody had used it
                self._refuse_queue(NotSent("the connection to Redis was lost before the command was sent"))
        except RactoGatewayError as failure:  # StoreError, or an extra that the embedded server needs
            self._refuse_queue(failure)
        except BaseException:
            # The loop is shutting down, or this is a bug of ours; either way nobody may be left waiting.
            self._refuse_queue(NotSent("the event loop is shutting down"))
            raise
        finally:
            self._connecting = None

    async def _open_wire(self) -> Wire:
        seconds = self._options.connect_timeout_seconds
        connection = await self._address.connect(seconds)
        async with closed_on_failure(connection, seconds):
            await self._watch_the_loop()
            if Multiplexer.can_take_over(connection):
                kind = DirectMultiplexer if self.short_cut else Multiplexer
                return kind.take_over(connection, self._options, self._on_lost)
            return StreamWire(connection, self._options, self._on_lost)

    async def _prepare(self, wire: Wire) -> None:
        """What a kind of link does with a new connection before commands may use it; a `StoreError` rejects it."""

    async def _watch_the_loop(self) -> None:
        if self._closer is None:
            self._closer = _until_the_loop_ends(weakref.ref(self))
            await anext(self._closer)

    def _on_lost(self, wire: Wire) -> None:
        self._wires.remove(wire)
        if self._wire is wire:
            self._wire = None

    def _refuse_queue(self, failure: RactoGatewayError) -> None:
        while self._queue:
            self._queue.popleft().finish(failure)


async def _until_the_loop_ends(reference: weakref.ref[Link]) -> AsyncGenerator[None, None]:
    """Suspended until its loop shuts its asynchronous generators down, as asyncio.run does: the loop's own farewell."""
    try:
        yield
    finally:
        link = reference()
        if link is not None and not link.closed:
            await link.aclose()
