"""A connection of the private thread that callers in other threads also use by themselves, while nobody else does.

A lone caller that had to wake the private thread, and to be woken by it, would spend more time on that than on the
command itself. So on an idle connection it writes its command in its own thread; and where that goes on for a while, it
reads its reply there, too. As soon as callers meet, one thread that does the work for all is faster, and the private
thread takes over again.

Whose turn it is to read says ``_turn``: the loop's; nobody's (the loop has stopped reading, and the next caller who
finds the connection idle writes and reads); or that of the caller whose exchange it holds. It changes hands under the
gate. Such a caller takes its own replies only: what came behind them is left to the loop, in the parser.

It reads in the *seat*, a lock, and only after a look at whose turn it is; the loop takes a caller's turn away only with
the seat in its hand. Calls inside a call, which would wait for locks of their own thread, do not come here (see
`ThreadPort`). ``_torn`` is set while bytes are on their way
from the socket to the replies. Found set by whoever takes over, it means that an exception which a signal handler
raised (Ctrl-C, a soft time limit) came in between, and that no position can be trusted any more.
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
from ractogateway.errors import NotSent, StoreError
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.multiplexer import MORE, Multiplexer, hiredis, ignore, packed

_LOOP: Final = Exchange(())
"""Stands for the loop where an exchange stands for its caller."""

_LONE_CALLS: Final = 32
"""So many calls one after another, and never two at a time: then callers read for themselves."""

_LOOK_SECONDS: Final = 0.02
"""How long nobody reads from a connection that nobody uses, until the loop does again; and for how long at most a
caller goes on waiting at a socket whose replies the loop has read, because a signal handler had kept the caller.
"""


class DirectMultiplexer(Multiplexer):
    """See above. `submit_from_outside` and `read` belong to callers' threads, all else to the loop's."""

    def __init__(self, connection: Any, options: RedisOptions, on_lost: Callable[[Multiplexer], None]) -> None:
        super().__init__(connection, options, on_lost)
        # A duplicate, which nobody else closes: a number that the transport has closed may already be somebody else's
        # file. None before `open_short_cut`, with TLS, and after the connection was lost.
        self._socket: socket.socket | None = None
        self._can_give = hasattr(select, "poll") and hasattr(self._reader, "has_data")
        self._turn: Exchange | None = _LOOP
        self._seat = threading.Lock()
        self._torn = False
        self._wanted = False  # the loop wants to read as soon as the caller who does is through
        self._poll: Any = None  # unless somebody uses it: it cannot be shared
        self._lone_calls = 0
        self._calls_seen = 0
        self._looks = False
        self._overdue: Exchange | None = None  # its caller had something to read when the loop last looked
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the connection is the parent's, also for who forked in a signal handler while it read."""
        self._turn, self._socket = _LOOP, None
        self._gate, self._seat = threading.Lock(), threading.Lock()

    def open_short_cut(self) -> None:
        """Let callers in. It costs a file descriptor."""
        if self._transport.get_extra_info("sslcontext") is None:
            self._socket = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)  # as it is; but Python may have been told another default
            # A loop that is closed without a farewell never calls `connection_lost`.
            weakref.finalize(self, self._socket.close).atexit = False

    # --- callers -----------------------------------------------------------------------------------------------------

    def submit_from_outside(self, exchange: Exchange) -> bool:
        """Send at once, where the connection is idle; then `read`. False when the exchange has to be handed over to the
        loop instead; nothing was sent then.
        """
        if self._in_flight or self._outbox or self._gate.locked():
            return False
        data = packed(exchange)
        if not data:
            return True  # it has ended
        # `with`: no exception of a signal handler comes between its acquiring and its block.
        with self._gate:
            if not self._idle() or (self._turn is not _LOOP and self._surprised()):
                return False
            self._sending = True
            self._last_progress = time.monotonic()
            self._in_flight.append(exchange)
            self._commands_in_flight += len(exchange.commands)
            exchange.claim()
            self._lone_calls += 1
            try:
                written = self._socket.send(data)  # type: ignore[union-attr]
            except OSError:  # full, or broken: the loop will find out which
                written = 0
            except AttributeError:  # a signal handler has forked, and this is the child: the socket is its parent's
                raise NotSent("the process was forked before the command was sent") from None
            if written < len(data):
                self._rest = data[written:]
                self._call_soon(self._write_rest)
            else:
                if self._stall_timer is None:
                    self._call_soon(self._ensure_watch)
                if self._turn is None:
                    self._turn = exchange
            self._sending = False
        return True

    def read(self, exchange: Exchange, deadline: float) -> bool:
        """Wait for one's own replies at the socket; True when all are there. Else they are the loop's to read, and the
        exchange is finished as any other.
        """
        if self._turn is not exchange:
            return False
        # Its own, should the loop have taken the turn and given it to the next caller meanwhile.
        used, poll, self._poll, done, trouble = self._socket, self._poll or self._new_poll(), None, False, None
        try:
            while not done and self._turn is exchange and (left := deadline - time.monotonic()) > 0:
                # Signal handlers run inside of this: after one the waiting goes on, though the replies may be gone.
                if poll.poll(min(left, _LOOK_SECONDS) * 1000):
                    done = self._read_replies(exchange, poll, used)
        except (hiredis.HiredisError, OSError, EOFError) as error:
            trouble = failures.lost_connection(error)
        finally:
            if not done:
                self._leave(exchange, poll, trouble)
        if self._socket is None and used is not None:
            used.close()
        return done

    def _read_replies(self, exchange: Exchange, poll: Any, used: Any) -> bool:
        """Read once; True when all replies of this caller are there."""
        with self._seat:
            # Not its turn: the loop took it, or this is a forked child, and the connection not even ours. No signal
            # handler, and hence no fork, comes between this line and the system call.
            if self._turn is not exchange:
                return False
            self._torn = True
            try:
                count = used.recv_into(self._buffer)
            except BlockingIOError:
                self._torn = False
                return False
            if not count:
                raise EOFError
            self._last_progress = time.monotonic()
            self._reader.feed(self._buffer, 0, count)
            replies, position, gets = exchange.replies, self._position, self._reader.gets
            while position < len(replies) and (reply := gets()) is not MORE:
                kind = reply.__class__
                if kind is self._push:
                    continue
                replies[position] = reply
                position += 1
                if kind is failures.ErrorReply and failures.server_error_code(reply) == "READONLY":
                    self.usable = False  # see `_hand_out`
            if position == len(replies):
                return self._put_away(exchange, poll)
            self._position = position
            self._torn = False
            return False

    def _put_away(self, exchange: Exchange, poll: Any) -> bool:
        """Leave the line for replies, with all of them; False where the connection was lost meanwhile."""
        with self._gate:
            if self._turn is not exchange:
                return False
            self._in_flight.popleft()
            self._commands_in_flight -= len(exchange.commands)
            self._position = 0
            self._torn = False
            self._turn, self._poll = None, poll
            left = self._wanted or self._in_flight or not self.usable or self._reader.has_data()
        if left:
            self._call_soon(self._take_turn)
        return True

    def _leave(self, exchange: Exchange, poll: Any, trouble: StoreError | None) -> None:
        """Give the turn to the loop: time is up, the connection broken, or the caller torn away."""
        with self._gate:
            if self._turn is not exchange:
                return
            self._turn, self._poll = None, poll
        if trouble is not None:
            self._call_soon(self._abort, trouble)
        self._call_soon(self._take_turn)

    def _surprised(self) -> bool:
        """Whether something is there that nobody asked for, or the end of the connection: the loop's business."""
        if self._poll is None:
            self._poll = self._new_poll()
        return bool(self._reader.has_data() or self._poll.poll(0))

    def _idle(self) -> bool:
        waiting = self._in_flight or self._outbox or self._rest or self._paused or self._sending or self._torn
        transport = self._transport
        open_ = self._socket is not None and self.usable and not transport.is_closing()
        return open_ and not waiting and not transport.get_write_buffer_size()

    def _new_poll(self) -> Any:
        poll = select.poll()
        if self._socket is not None:
            poll.register(self._socket, select.POLLIN)
        return poll

    def _call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # closed a moment ago, and everybody who waits is told
            self._loop.call_soon_threadsafe(function, *arguments, context=self._context)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def submit(self, exchange: Exchange) -> None:
        """See `Multiplexer`."""
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
        """See `Multiplexer`."""
        super().buffer_updated(nbytes)
        if self._lone_calls >= _LONE_CALLS and self._can_give:
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
        """Read again where nobody calls any more, or a caller does not read what has been there since the last look: it
        was torn away before it began or in its last line, or a signal handler keeps it.
        """
        turn, overdue, self._overdue = self._turn, self._overdue, None
        if turn is None:
            if self._lone_calls == self._calls_seen:
                self._take_turn()
        elif turn is not _LOOP and self._new_poll().poll(0):
            if turn is overdue:
                self._take_turn(by_force=True)
            self._overdue = turn
        self._calls_seen = self._lone_calls
        self._looks = self._turn is not _LOOP
        if self._looks:
            self._loop.call_later(_LOOK_SECONDS, self._look, context=self._context)

    def _take_turn(self, *, by_force: bool = False) -> None:
        """Read in the loop: now, or when the caller who reads is through."""
        with self._gate:
            if self._turn is _LOOP:
                return
            if self._turn is not None:
                if not by_force or not self._seat.acquire(blocking=False):
                    self._wanted = True
                    return
                self._turn = _LOOP
                self._seat.release()
            self._turn, self._wanted, self._lone_calls = _LOOP, False, 0
            if self._torn or self._sending:
                self._abort(failures.lost_connection(InterruptedError()))
            else:
                # Inside the gate, as nothing may be sent before it is known what has been there already.
                super().buffer_updated(self._read_now())
                if not self._transport.is_closing():
                    self._transport.resume_reading()

    def _read_now(self) -> int:
        """Read what has come already, if anything; the parser may hold more, from behind a caller's reply."""
        if self._socket is None:
            return 0
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._abort(failures.lost_connection(error))
            return 0
        if not count:
            self._abort(failures.lost_connection(EOFError()))
        return count

    def connection_lost(self, exc: Exception | None) -> None:
        """See `Multiplexer`."""
        with self._gate:
            self._turn, used = _LOOP, self._socket
            self._socket = None
        if used is not None and self._seat.acquire(blocking=False):
            used.close()
            self._seat.release()  # where it was taken, the caller closes it: not under its very system call
        super().connection_lost(exc)
