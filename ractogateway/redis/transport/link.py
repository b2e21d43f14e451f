"""One connection to Redis in one event loop, shared by every caller of that loop.

Commands that callers issue in one tick of the loop leave together in one write; while their replies are outstanding,
later commands gather for the next write. Callers never touch the connection: a worker task does, so a cancelled or
timed-out caller leaves nothing half-read behind, and no reply can reach anybody but the position that asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
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

_IDLE_GRACE_SECONDS = 10.0
"""How long a connection that no object refers to any more is kept for the next one."""


class Link:
    """A connection that is made on first use, and again after it was lost. All methods belong to its loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        self.loop = loop
        self.closed = False
        self._options = endpoint.options
        self._address = endpoint.address
        # Weak, because a link must not keep alive the reference count that decides over its own end.
        self._endpoint = weakref.ref(endpoint)
        self._queue: deque[Exchange] = deque()
        self._in_flight: list[Exchange] = []
        self._worker: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._demoted = False
        self._closer: AsyncGenerator[None, None] | None = None

    @property
    def connected(self) -> bool:
        """Whether a command could leave without connecting first."""
        return self._connection is not None

    def belongs_to(self, endpoint: Endpoint) -> bool:
        """Whether this link counts among the endpoint's."""
        return self._endpoint() is endpoint

    def adopt(self, endpoint: Endpoint) -> None:
        """A new owner of the same address and options: the connection lives on with it."""
        self._endpoint = weakref.ref(endpoint)

    def submit(self, exchange: Exchange) -> None:
        """Queue the commands; they leave with all others of this tick."""
        if self.closed:
            exchange.finish(NotSent("the connection was closed"))
            return
        self._queue.append(exchange)
        if self._worker is None:
            # An empty context: neither this task nor the connection it may open belongs to the request that
            # happened to come first.
            self._worker = self.loop.create_task(self._work(), context=Context())

    def retire(self) -> None:
        """The last owner is gone: close after a grace, unless a new one comes first."""
        if not self.closed:
            self.loop.call_later(_IDLE_GRACE_SECONDS, self._close_if_ownerless, context=Context())

    def _close_if_ownerless(self) -> None:
        if self._endpoint() is None and not self.closed:
            self._worker = self.loop.create_task(self.aclose(), context=Context())

    async def aclose(self) -> None:
        """Close the connection; whatever waits is told."""
        self.closed = True
        worker, self._worker = self._worker, None
        if worker is not None and worker is not asyncio.current_task() and not worker.done():
            worker.cancel()
            await asyncio.wait([worker])
        self._fail_all(NotSent("the connection was closed"))
        await self._disconnect()
        closer, self._closer = self._closer, None
        if closer is not None:
            # Finds the link closed. Where the generator itself is what brought us here, it is running: nothing to do.
            with contextlib.suppress(RuntimeError):
                await closer.aclose()

    # --- the worker task ---------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._serve_batch()
        except BaseException as error:
            # The loop is shutting down, or this is a bug of ours; either way nobody may be left waiting.
            self._fail_all(NotSent("the event loop is shutting down"), error)
            await self._disconnect()
            raise
        finally:
            self._worker = None

    async def _serve_batch(self) -> None:
        try:
            connection = self._connection or await self._connect()
        except StoreError as failure:
            self._fail_all(failure)
            return
        batch = self._in_flight = self._next_batch()
        if not batch:
            return
        try:
            packed = connection.pack_commands([command for exchange in batch for command in exchange.commands])
            async with asyncio.timeout(self._options.stall_seconds) as stall:
                await connection.send_packed_command(packed, check_health=False)
                while self._in_flight:
                    await self._read_replies(connection, self._in_flight[0], stall)
                    self._in_flight.pop(0).finish()
            if self._demoted:
                await self._disconnect()
        except (redis_errors.RedisError, OSError, EOFError) as error:
            await self._disconnect()
            self._fail_in_flight(failures.lost_connection(error))

    async def _read_replies(self, connection: Any, exchange: Exchange, stall: asyncio.Timeout) -> None:
        for position in range(len(exchange.commands)):
            try:
                exchange.replies[position] = await connection.read_response(disable_decoding=True)
            except redis_errors.RedisError as error:
                if not failures.is_server_error(error):
                    raise
                exchange.replies[position] = error
                # A primary that became a replica: the next connection may lead to its successor.
                self._demoted = self._demoted or failures.server_error_code(error) == "READONLY"
            stall.reschedule(self.loop.time() + self._options.stall_seconds)

    def _next_batch(self) -> list[Exchange]:
        batch: list[Exchange] = []
        room = self._options.max_in_flight
        while self._queue and (not batch or len(self._queue[0].commands) <= room):
            exchange = self._queue.popleft()
            if exchange.claim():
                batch.append(exchange)
                room -= len(exchange.commands)
        return batch

    def _fail_in_flight(self, failure: StoreError) -> None:
        in_flight, self._in_flight = self._in_flight, []
        for exchange in in_flight:
            exchange.finish(failure)

    def _fail_all(self, failure: StoreError, cause: BaseException | None = None) -> None:
        self._fail_in_flight(failure if cause is None else failures.lost_connection(cause))
        while self._queue:
            self._queue.popleft().finish(failure)

    # --- the connection ----------------------------------------------------------------------------------------------

    async def _connect(self) -> Any:
        connection = None
        try:
            connection = await self._address.connection()
            async with asyncio.timeout(self._options.connect_timeout_seconds):
                await connection.connect()
        except (redis_errors.RedisError, OSError, EOFError, StoreError) as error:
            if connection is not None:
                await _disconnect_quietly(connection)
            if isinstance(error, StoreError):
                raise
            raise failures.connect_error(error) from error
        except BaseException:
            if connection is not None:
                await _disconnect_quietly(connection)
            raise
        self._connection, self._demoted = connection, False
        if self._closer is None:
            self._closer = _until_the_loop_ends(weakref.ref(self))
            await anext(self._closer)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _disconnect_quietly(connection)


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


def link_for(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> Link:
    """The link to this endpoint in this (running) loop.

    The links live on the loop itself, so they die with it. A registry keyed weakly by the loop would not do: a link
    refers to its loop, and the registry's value would keep its own key alive.
    """
    links: dict[Any, Link] | None = loop.__dict__.get(_LINKS)
    if links is None:
        links = loop.__dict__[_LINKS] = {}
    link = links.get(endpoint.key)
    if link is None or link.closed:
        link = links[endpoint.key] = Link(loop, endpoint)
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


def peek_link(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> Link | None:
    """The link to this endpoint in this loop, if there is one."""
    links: dict[Any, Link] = loop.__dict__.get(_LINKS, {})
    return links.get(endpoint.key)


async def close_links(loop: asyncio.AbstractEventLoop) -> None:
    """Close all links of this (running) loop."""
    for link in list(loop.__dict__.get(_LINKS, {}).values()):
        await link.aclose()
