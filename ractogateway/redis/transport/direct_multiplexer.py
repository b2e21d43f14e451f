"""A connection of the private thread that callers in other threads also use by themselves, while nobody else does.

A lone caller that had to wake the private thread, and be woken by it, would spend more time on that than on the command
itself. So on an idle connection it writes its command in its own thread; and where that goes on for a while, it reads
its reply there, too. As soon as callers meet, one thread that does the work for all is faster, and the private thread
takes over again.

Whose turn it is to read says `_turn`: the loop's, nobody's (the loop has stopped reading, and the next caller who finds
the connection idle sends and reads), or that of the caller whose exchange it holds. A reply goes to its own caller
alone: what arrives behind it is left to the loop. Three locks and flags keep it right, whatever is interrupted where:

* the *gate* of `Multiplexer`: places in the line for replies, and the turn, change hands under it;
* the *seat*: a caller that reads sits in it by ``with``, so that it is free again whatever becomes of the caller. The
  loop takes a caller's turn away only from an empty seat;
* *parsing* is set while bytes are between the socket and the replies. Found set by the loop when it takes over, it
  means that the caller was torn away (Ctrl-C) in between, and that no position can be trusted any more.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from ractogateway._forking import renewed_after_fork
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.multiplexer import MORE, Multiplexer, hiredis, ignore

_LOOP: Final = Exchange(())
"""Stands for the loop where an exchange stands for its caller."""

_LONE_CALLS: Final = 32
"""So many calls one after another, and no two at a time: then callers read for themselves."""

_LOOK_SECONDS: Final = 0.02
"""How long nobody reads from a connection that nobody uses, until the loop does again."""


class DirectMultiplexer(Multiplexer):
    """See above. `submit_from_outside` and `read` belong to callers' threads, all else to the loop's."""

    def __init__(self, connection: Any, options: RedisOptions, on_lost: Callable[[Multiplexer], None]) -> None:
        super().__init__(connection, options, on_lost)
        # A duplicate, which nobody else closes: a number that the transport has closed may already be somebody else's
        # file. None before `open_short_cut`, with TLS, and after the connection was lost.
        self._socket: socket.socket | None = None
        self._poll: Any = None
        self._turn: Exchange | None = _LOOP
        self._seat = threading.Lock()
        self._reader_thread = 0
        self._parsing = False
        self._wanted = False  # the loop wants to read as soon as the caller who does is through
        self._lone_calls = 0
        self._calls_seen = 0
        self._looks = False
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the connection is the parent's, also for who forked in a signal handler while it read."""
        self._turn, self._socket = _LOOP, None

    def open_short_cut(self) -> None:
        """Let callers in. It costs a file descriptor."""
        if self._transport.get_extra_info("sslcontext") is None:
            self._socket = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
            # A loop that is closed without a farewell never calls `connection_lost`.
            weakref.finalize(self, self._socket.close).atexit = False
            if hasattr(select, "poll") and hasattr(self._reader, "has_data"):
                self._poll = select.poll()
                self._poll.register(self._socket, select.POLLIN)

    # --- callers -----------------------------------------------------------------------------------------------------

    def submit_from_outside(self, exchange: Exchange) -> bool:
        """Send at once, where the connection is idle; then `read`. False when the exchange has to be handed over to the
        loop instead; nothing was sent then.
        """
        # A signal handler or a finalizer may interrupt this very thread inside the gate and come here: it must not
        # wait.
        if self._in_flight or self._outbox or self._gate.locked():
            if self._turn is not _LOOP:
                self._step_aside()
            return False
        # `with`: no exception of a signal handler comes between its acquiring and its block.
        with self._gate:
            if not self._idle():
                return False
            reads = self._turn is None
            # Something that nobody asked for, or the end: the loop knows what to do. Nothing was sent yet.
            if reads and (self._seat.locked() or self._poll.poll(0)):
                return False
            data = b"".join(map(hiredis.pack_command, exchange.commands))
            self._sending = True
            self._last_progress = time.monotonic()
            self._in_flight.append(exchange)
            self._commands_in_flight += len(exchange.commands)
            exchange.claim()
            try:
                written = self._socket.send(data)  # type: ignore[union-attr]
            except (BlockingIOError, ConnectionError):  # full, or broken: the loop will find out which
                written = 0
            self._lone_calls += 1
            if written < len(data):
                self._rest = data[written:]
                self._call_soon(self._write_rest)
            elif self._stall_timer is None:
                self._call_soon(self._ensure_watch)
            if reads and not self._rest:
                self._reader_thread = threading.get_ident()
                self._turn = exchange
            self._sending = False
        return True

    def read(self, exchange: Exchange, deadline: float) -> bool:
        """Wait for one's own replies at the socket; True when all are there. Else they are the loop's to read: the
        exchange will be finished as any other.
        """
        used = self._socket
        if used is None or self._turn is not exchange:
            return False
        with self._seat:
            done = False
            try:
                while not done and self._bytes_come(exchange, deadline):
                    done = self._read_replies(exchange)
            except (hiredis.HiredisError, OSError, EOFError) as error:
                self._call_soon(self._abort, failures.lost_connection(error))
            finally:
                done = self._leave(exchange, done=done)
        if self._socket is None:
            used.close()
        return done

    def _step_aside(self) -> None:
        """Let the loop read if this very thread does, below the signal handler or finalizer that calls now."""
        if self._reader_thread != threading.get_ident() or self._gate.locked():
            return
        if self._parsing:
            self._call_soon(self._abort, failures.lost_connection(InterruptedError()))
            return
        with self._gate:
            if self._turn is not _LOOP:
                self._turn = None
        self._call_soon(self._take_turn)

    def _bytes_come(self, exchange: Exchange, deadline: float) -> bool:
        left = deadline - time.monotonic()
        return self._turn is exchange and left > 0 and bool(self._poll.poll(left * 1000))

    def _read_replies(self, exchange: Exchange) -> bool:
        """Read once, without waiting; True when all replies of this caller are there."""
        # Signal handlers that ran during the wait may have called `step_aside`, or forked, and then the connection is
        # not even ours. From this line to the system call none can run.
        if self._turn is not exchange:
            return False
        self._parsing = True
        count = self._socket.recv_into(self._buffer)  # type: ignore[union-attr]
        if not count:
            raise EOFError
        self._last_progress = time.monotonic()
        self._reader.feed(self._buffer, 0, count)
        replies, position, gets = exchange.replies, self._position, self._reader.gets
        while position < len(replies) and (reply := gets()) is not MORE:
            kind = reply.__class__
            if kind is not self._push:
                replies[position] = reply
                position += 1
                if kind is failures.ErrorReply and failures.server_error_code(reply) == "READONLY":
                    self.usable = False
        self._position = position
        self._parsing = position == len(replies)  # until all is put away
        return self._parsing

    def _leave(self, exchange: Exchange, *, done: bool) -> bool:
        """Give the turn back, and the loop what is left to do; whether the exchange is done."""
        with self._gate:
            if self._turn is not exchange:
                return False
            if done:
                self._in_flight.popleft()
                self._commands_in_flight -= len(exchange.commands)
                self._position = 0
                self._parsing = False
            self._turn = None
            left = self._wanted or self._in_flight or self._parsing or not self.usable or self._reader.has_data()
        if left:
            self._call_soon(self._take_turn)
        return done

    def _idle(self) -> bool:
        waiting = self._in_flight or self._outbox or self._rest or self._paused or self._sending
        transport = self._transport
        open_ = self._socket is not None and self.usable and not transport.is_closing()
        return open_ and not waiting and not transport.get_write_buffer_size()

    def _call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # closed a moment ago, and everybody who waits is told
            self._loop.call_soon_threadsafe(function, *arguments, context=self._context)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def submit(self, exchange: Exchange) -> None:
        self._lone_calls = 0
        if self._turn is not _LOOP:
            self._take_turn()
        super().submit(exchange)

    def _write_rest(self) -> None:
        with self._gate:
            rest, self._rest = self._rest, b""
            self._transport.write(rest)
        self._ensure_watch()
        self._take_turn()
        self._flush()

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        if self._lone_calls >= _LONE_CALLS and self._poll is not None:
            self._give_turn()

    def _give_turn(self) -> None:
        """Let callers read from now on, if all is quiet."""
        with self._gate:
            # Whoever tracks keys wants to hear of them at once.
            if self.on_push is not ignore or not self._idle() or self._reader.has_data():
                return
            self._transport.pause_reading()
            self._turn = None
        if not self._looks:
            self._looks = True
            self._loop.call_later(_LOOK_SECONDS, self._look, context=self._context)

    def _look(self) -> None:
        """Read again where nobody calls any more, or whoever should read was torn away before or after."""
        if self._lone_calls == self._calls_seen or (self._turn is not None and not self._seat.locked()):
            self._take_turn()
        self._calls_seen = self._lone_calls
        self._looks = self._turn is not _LOOP
        if self._looks:
            self._loop.call_later(_LOOK_SECONDS, self._look, context=self._context)

    def _take_turn(self) -> None:
        """Read in the loop: now, or when the caller who reads is through."""
        with self._gate:
            if self._turn is _LOOP:
                return
            if self._turn is not None:
                # A caller that comes to its seat only now finds that it is not its turn any more.
                if not self._seat.acquire(blocking=False):
                    self._wanted = True
                    return
                self._turn = _LOOP
                self._seat.release()
            self._turn, self._wanted, self._lone_calls = _LOOP, False, 0
            torn = self._parsing or self._sending
        if torn:
            self._abort(failures.lost_connection(InterruptedError()))
        else:
            super().buffer_updated(0)  # what came together with a caller's reply
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        with self._gate:
            self._turn, used = _LOOP, self._socket
            self._socket = None
            empty = self._seat.acquire(blocking=False)
        if empty:
            self._seat.release()
        if used is not None:
            if empty:
                used.close()
            else:  # whoever reads wakes up, and closes it: never under the very system call that uses it
                with contextlib.suppress(OSError):
                    used.shutdown(socket.SHUT_RDWR)
        super().connection_lost(exc)
