"""A full-duplex connection that many callers share: commands of one tick leave in one write, or a few if they are much
work, and replies come back by position.

redis.asyncio makes the connection (URL, TLS, credentials, HELLO, SELECT); then its transport is given the protocol
below, and redis-py neither reads nor writes it any more.

A caller that was cancelled or timed out is skipped when its reply arrives: the position stays, so no reply can reach
anybody else, and the connection stays usable. Only a connection that owes replies and delivers no byte for
``stall_seconds`` is given up as a whole.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import chain
from typing import Any, Final

from ractogateway.errors import NotSent, RactoGatewayError, StoreError
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.exchange import Exchange

hiredis: Any
try:
    hiredis = importlib.import_module("hiredis")
except ModuleNotFoundError:  # redis-py without its [hiredis] extra: `StreamWire` serves instead
    hiredis = None

MORE: Final = object()
_BUFFER_BYTES = 128 * 1024
_FULL_WORDS: Final = 512
"""Words of commands (a GET has two, a script call a dozen or more) that leave before the tick ends: the server begins
while this process goes on with the rest of it. With scripts, which keep the server as busy as us, 100 tasks get a fifth
more done; for as many short commands a write costs more than it brings forward.
"""
_CLOSE_SECONDS = 1.0


def ignore(_push: Any) -> None:
    return None


def packed(exchange: Exchange) -> bytes:
    """The commands as bytes; nothing where they cannot be encoded, which the caller has been told then."""
    commands = exchange.commands
    try:
        if len(commands) == 1:
            data: bytes = hiredis.pack_command(commands[0])
            return data
        return b"".join(map(hiredis.pack_command, commands))
    except Exception:  # noqa: BLE001 - a bug above us, which is its caller's, and nobody else's in whose turn it is sent
        exchange.finish(RactoGatewayError("a command holds something that cannot be sent"))
        return b""


class Multiplexer(asyncio.BufferedProtocol):
    """One connection. All methods belong to its loop's thread."""

    def __init__(self, connection: Any, options: RedisOptions, on_lost: Callable[[Multiplexer], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection  # redis-py's; kept referenced, never asked for anything again
        self.on_push: Callable[[Any], object] = ignore  # told of push messages in their place among the replies
        self._on_lost = on_lost
        self._stall_seconds = options.stall_seconds
        self._max_in_flight = options.max_in_flight
        self._reader = hiredis.Reader(replyError=failures.ErrorReply, notEnoughData=MORE)
        self._push = hiredis.PushNotification
        # A memoryview, because asyncio's TLS protocol slices what it is given, and a slice of a bytearray is a copy.
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._outbox: deque[Exchange] = deque()
        self._waiting_words = 0  # of the commands in the outbox, about
        self._in_flight: deque[Exchange] = deque()
        self._commands_in_flight = 0
        self._position = 0
        self._flush_scheduled = False
        self._paused = False
        self._last_progress = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self.usable = True  # commands may still be submitted
        self._failure: StoreError | None = None
        self._transport: asyncio.Transport = connection._writer.transport
        self._lost: asyncio.Future[None] = self._loop.create_future()
        # What another thread than the loop's may touch, and only while it holds the gate: the order of `_in_flight` is
        # the order of the bytes on the socket. See `DirectMultiplexer`.
        self._gate = threading.Lock()
        # Set while commands are on their way from a caller to the socket. Found set by whoever gets the gate, it means
        # that an exception which a signal handler raised (Ctrl-C, a soft time limit) stopped the sender somewhere in
        # between: what the server has read of it nobody knows, so no position can be trusted any more.
        self._sending = False
        self._rest = b""
        self._context = Context()

    @classmethod
    def take_over(cls, connection: Any, options: RedisOptions, on_lost: Callable[[Multiplexer], None]) -> Multiplexer:
        """Give the transport of a freshly connected redis.asyncio connection to a multiplexer.

        Raises:
            EOFError: the server has hung up meanwhile; nobody would tell the multiplexer any more.
        """
        if connection._reader.at_eof() or connection._writer.transport.is_closing():
            raise EOFError
        wire = cls(connection, options, on_lost)
        wire._transport.set_protocol(wire)
        return wire

    @staticmethod
    def can_take_over(connection: Any) -> bool:
        """Whether this release of redis-py keeps its stream where we know it, with nothing read ahead of us."""
        reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
        unread = getattr(reader, "_buffer", None)
        parser = getattr(getattr(connection, "_parser", None), "_reader", None)
        ahead = parser is not None and hasattr(parser, "has_data") and parser.has_data()
        # Releases of hiredis before 3 cannot tell a push message from a reply.
        fits = hasattr(hiredis, "pack_command") and hasattr(hiredis, "PushNotification")
        return fits and unread is not None and not unread and not ahead and hasattr(writer, "transport")

    # --- outgoing ----------------------------------------------------------------------------------------------------

    def pending(self) -> Iterable[Exchange]:
        """Whatever is not answered yet."""
        return chain(self._in_flight, self._outbox)

    def submit(self, exchange: Exchange) -> None:
        """Send the commands: at once when the connection is idle, with others of this tick otherwise."""
        self._outbox.append(exchange)
        self._waiting_words += len(exchange.commands) * len(exchange.commands[0])
        if not self._flush_scheduled:
            if self._in_flight:
                self._schedule_flush()
            else:
                self._flush()
        elif self._waiting_words >= _FULL_WORDS:
            self._send_outbox()

    def _schedule_flush(self) -> None:
        self._flush_scheduled = True
        self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._send_outbox()

    def _send_outbox(self) -> None:
        self._waiting_words = 0
        with self._gate:
            if self._sending:
                self._abort(failures.lost_connection(InterruptedError()))
            if self._paused or self._rest or self._transport.is_closing():
                return
            self._sending = True
            outbox, in_flight = self._outbox, self._in_flight
            if not in_flight:
                self._last_progress = time.monotonic()
            pieces: list[bytes] = []
            room = self._max_in_flight - self._commands_in_flight
            while outbox and room > 0:
                exchange = outbox[0]  # where whoever ends the connection finds it, should packing be interrupted
                data = packed(exchange)
                outbox.popleft()
                if data and exchange.claim():
                    pieces.append(data)
                    in_flight.append(exchange)
                    room -= len(exchange.commands)
            self._commands_in_flight = self._max_in_flight - room
            if pieces:
                self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            self._sending = False
        self._ensure_watch()

    def pause_writing(self) -> None:
        """The socket takes no more for now: later commands wait, unsent."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._paused = False
        if self._outbox and not self._flush_scheduled:
            self._flush()

    # --- incoming ----------------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Where the transport puts what it reads."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand out the replies that are complete."""
        self._last_progress = time.monotonic()
        try:
            self._reader.feed(self._buffer, 0, nbytes)
            self._hand_out()
        except (hiredis.HiredisError, IndexError) as error:
            # Not the protocol, or a reply that nobody asked for: from here on no position can be trusted.
            self._abort(failures.lost_connection(error))
        except BaseException as error:  # Ctrl-C in a loop that goes on: replies may have been read and not handed out
            self._abort(failures.lost_connection(error))
            raise
        if self._outbox and not self._flush_scheduled:
            self._schedule_flush()

    def _hand_out(self) -> None:
        gets, in_flight, push, error = self._reader.gets, self._in_flight, self._push, failures.ErrorReply
        position = self._position
        while (reply := gets()) is not MORE:
            kind = reply.__class__
            if kind is push:
                self.on_push(reply)
                continue
            exchange = in_flight[0]
            replies = exchange.replies
            replies[position] = reply
            position += 1
            if position == len(replies):
                in_flight.popleft()
                self._commands_in_flight -= position
                position = 0
                exchange.finish()
            if kind is error and failures.server_error_code(reply) == "READONLY":
                # A primary that became a replica: the next connection may lead to its successor.
                self.usable = False
        self._position = position
        if not self.usable and not in_flight:
            self._transport.abort()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _ensure_watch(self) -> None:
        if self._stall_timer is None and not self._lost.done():
            self._stall_timer = self._loop.call_later(self._stall_seconds, self._check_for_stall, context=self._context)

    def _check_for_stall(self) -> None:
        self._stall_timer = None
        # Read before the clock: a direct sender sets the clock first.
        owes = bool(self._in_flight)
        left = self._last_progress + self._stall_seconds - time.monotonic()
        if left > 0:  # in use: go on watching, so that the next command need not start it anew
            self._stall_timer = self._loop.call_later(left, self._check_for_stall, context=self._context)
        elif owes:
            self._abort(failures.lost_connection(TimeoutError()))

    def _abort(self, failure: StoreError) -> None:
        self.usable = False
        self._failure = self._failure or failure
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Everybody who still waits is told, by whether the command had left."""
        self.usable = False
        failure = self._failure = self._failure or failures.lost_connection(exc or EOFError())
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        # Or the connection, when it is collected, would warn that nobody closed it.
        self._connection._reader = self._connection._writer = None
        with self._gate:
            in_flight, self._in_flight = self._in_flight, deque()
        while in_flight:
            in_flight.popleft().finish(failure)
        while self._outbox:
            self._outbox.popleft().finish(NotSent("the connection to Redis was lost before the command was sent"))
        if not self._lost.done():
            self._lost.set_result(None)
        self._on_lost(self)

    async def aclose(self, failure: StoreError) -> None:
        """Close at once; whoever still waits gets ``failure``. Returns when the socket is closed."""
        if not self._lost.done():
            self._abort(failure)
            await asyncio.wait([self._lost], timeout=_CLOSE_SECONDS)
