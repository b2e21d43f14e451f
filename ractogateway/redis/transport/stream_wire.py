"""A half-duplex connection over redis-py's public methods, for releases whose streams `Multiplexer` cannot take over.

Commands gather while a batch is on its way, and leave together in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import chain
from typing import Any

from redis import exceptions as redis_errors

from ractogateway.errors import NotSent, StoreError
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.exchange import Exchange


class StreamWire:
    """One connection, served by a worker task while there is work. All methods belong to its loop's thread."""

    def __init__(self, connection: Any, options: RedisOptions, on_lost: Callable[[StreamWire], None]) -> None:
        self._connection = connection
        # The older name is deprecated from redis-py 8 on.
        self._has_data = getattr(connection, "can_read", None) or connection.can_read_destructive
        self._options = options
        self._on_lost = on_lost
        self._outbox: deque[Exchange] = deque()
        self._in_flight: list[Exchange] = []
        self._worker: asyncio.Task[None] | None = None
        self.usable = True

    def pending(self) -> Iterable[Exchange]:
        """Whatever is not answered yet."""
        return chain(self._in_flight, self._outbox)

    def submit(self, exchange: Exchange) -> None:
        """Queue the commands for the next batch."""
        self._outbox.append(exchange)
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=Context())

    async def aclose(self, failure: StoreError) -> None:
        """Close at once; whoever still waits gets ``failure``."""
        worker = self._worker
        if worker is not None and worker is not asyncio.current_task():
            worker.cancel()
            await asyncio.wait([worker])
        await self._end(failure)

    async def _work(self) -> None:
        try:
            if await self._has_data():
                # It answers nothing of ours: from here on, every reply would be that of the command before.
                await self._end(NotSent("the server said something that it was not asked"))
            while self._outbox and self.usable:
                await self._serve_batch()
        except (redis_errors.RedisError, OSError, EOFError) as error:
            await self._end(failures.lost_connection(error))
        except BaseException as error:
            # The loop is shutting down, or this is a bug of ours; either way nobody may be left waiting.
            await self._end(failures.lost_connection(error))
            raise
        finally:
            self._worker = None

    async def _serve_batch(self) -> None:
        reader = getattr(self._connection, "_reader", None)
        if reader is not None and reader.at_eof():
            await self._end(NotSent("the server had closed the connection"))
            return
        batch = self._in_flight = self._next_batch()
        if not batch:
            return
        packed = self._connection.pack_commands([command for exchange in batch for command in exchange.commands])
        demoted = False
        async with asyncio.timeout(self._options.stall_seconds) as stall:
            await self._connection.send_packed_command(packed, check_health=False)
            while self._in_flight:
                exchange = self._in_flight[0]
                for position in range(len(exchange.commands)):
                    reply = exchange.replies[position] = await self._read_reply()
                    stall.reschedule(asyncio.get_running_loop().time() + self._options.stall_seconds)
                    demoted = demoted or (
                        isinstance(reply, Exception) and failures.server_error_code(reply) == "READONLY"
                    )
                self._in_flight.pop(0).finish()
        if demoted:  # a primary that became a replica: the next connection may lead to its successor
            await self._end(NotSent("the server became a replica"))

    async def _read_reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except redis_errors.RedisError as error:
            if not failures.is_server_error(error):
                raise
            return error

    def _next_batch(self) -> list[Exchange]:
        batch: list[Exchange] = []
        room = self._options.max_in_flight
        while self._outbox and (not batch or len(self._outbox[0].commands) <= room):
            exchange = self._outbox.popleft()
            if exchange.claim():
                batch.append(exchange)
                room -= len(exchange.commands)
        return batch

    async def _end(self, failure: StoreError) -> None:
        if not self.usable:
            return
        self.usable = False
        while self._in_flight:
            self._in_flight.pop(0).finish(failure)
        while self._outbox:
            self._outbox.popleft().finish(NotSent("the connection to Redis was lost before the command was sent"))
        self._on_lost(self)
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)
