"""The one private event-loop thread of the process, which carries the commands of all blocking callers.

It starts on first use, is a daemon, is replaced in a forked child, and ends at exit: its connections are closed,
whoever still waits is told.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import sys
import threading
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, ClassVar

from ractogateway._forking import immortalise
from ractogateway.errors import NotSent
from ractogateway.redis.transport import endpoint as endpoints
from ractogateway.redis.transport import links
from ractogateway.redis.transport.direct_multiplexer import DirectMultiplexer
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.heartbeats import LoopPacemaker
from ractogateway.redis.transport.link import Link

_EXIT_SECONDS = 2.0


class NoThread(Exception):
    """The interpreter is too far gone to start a thread, or threads are none in this process (gevent, eventlet)."""


def threads_are_patched() -> bool:
    """Whether gevent or eventlet made greenlets of threads: a private event loop would stop all of them for ever."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


class Lane:
    """The way through the private thread to one endpoint, for small or for bulky replies."""

    __slots__ = ("_key", "_recent", "bulky", "endpoint", "thread")

    def __init__(self, thread: LoopThread, endpoint: Endpoint, bulky: bool) -> None:
        self.thread = thread
        self.endpoint = endpoint
        self.bulky = bulky
        self._key = endpoint.bulky_key if bulky else endpoint.key
        self._recent: Link | None = None  # the link that was used last: mostly it serves again

    def link(self) -> Link | None:
        """The link of this lane, if there is one, of this very endpoint.

        One that belonged to an object of the past is about to retire, unless the loop hears of its new owner.
        """
        recent = self._recent
        if recent is None or recent.closed:
            recent = self._recent = links.peek_link(self.thread.loop, self._key)
        return recent if recent is not None and recent.belongs_to(self.endpoint) else None

    def submit(self, exchange: Exchange) -> None:
        """Send an exchange, in the private thread. The link is made on first use."""
        link = self.link()
        if link is None or link.closed:
            link = links.link_for(self.thread.loop, self.endpoint, bulky=self.bulky)
            link.short_cut = True
        link.submit(exchange)


class LoopThread:
    """A thread that runs an event loop and takes exchanges from any other thread."""

    current: ClassVar[LoopThread | None] = None
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self) -> None:
        if threads_are_patched() or sys.is_finalizing():  # Python 3.11 would wait for ever for the thread to start
            raise NoThread
        self._inbox: deque[tuple[Lane, Exchange]] = deque()
        self._awake = False
        self._ended = False
        self._context = Context()
        try:
            self.loop = _new_event_loop()
        except OSError as error:  # no file descriptor left
            raise NotSent(f"no event loop could be made ({type(error).__name__})") from error
        self._thread = threading.Thread(target=self._main, name="ractogateway-redis", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self.loop.close()
            raise NoThread from error

    @classmethod
    def get(cls) -> LoopThread:
        """The thread of this process, started if need be.

        Raises:
            NoThread: see there.
        """
        thread = cls.current
        if thread is None or not thread.alive:
            with cls._lock:
                thread = cls.current
                if thread is None or not thread.alive:
                    made = cls()
                    # A signal handler that ran meanwhile, in this very thread, may have come first.
                    thread = cls.current
                    if thread is not None and thread.alive:
                        made.stop()
                    else:
                        thread = cls.current = made
        return thread

    @property
    def ident(self) -> int | None:
        """See `threading.Thread.ident`."""
        return self._thread.ident

    @property
    def alive(self) -> bool:
        """Whether exchanges that are handed over now will be served."""
        return not self._ended

    def hand_over(self, lane: Lane, link: Link | None, exchange: Exchange) -> DirectMultiplexer | None:
        """Send an exchange: at once where the connection is idle, else one wake-up of the loop serves a whole burst.

        Returns the connection that it has left by: its reply may have to be read by its caller.
        """
        if link is not None and (wire := link.submit_from_outside(exchange)) is not None:
            return wire
        self._inbox.append((lane, exchange))
        # The loop clears the flag before it empties the inbox, so an entry appended while the flag is set is seen.
        if not self._awake:
            try:
                self._awake = True
                self.loop.call_soon_threadsafe(self._drain, context=self._context)
            except RuntimeError:  # closed a moment ago
                self._awake = False
                self._refuse_inbox()
            except BaseException:  # a signal handler raised: the next caller wakes the loop
                self._awake = False
                raise
        return None

    def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the loop and wait for its end, for a moment."""
        try:
            asyncio.run_coroutine_threadsafe(work, self.loop).result(_EXIT_SECONDS)
        except (RuntimeError, TimeoutError):  # the loop was closed a moment ago, or its thread is busy
            work.close()

    def _drain(self) -> None:
        self._awake = False
        if self._ended:
            self._refuse_inbox()
            return
        inbox = self._inbox
        while inbox:
            lane, exchange = inbox.popleft()
            lane.submit(exchange)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._ended = True
            try:
                LoopPacemaker.end_in(self.loop)
                self.loop.run_until_complete(links.close_links(self.loop))
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            finally:
                self.loop.close()
                self._refuse_inbox()

    def _refuse_inbox(self) -> None:
        with contextlib.suppress(IndexError):  # several threads may be here
            while True:
                _, exchange = self._inbox.popleft()
                exchange.finish(NotSent("the process is exiting"))

    def stop(self) -> None:
        """End the thread and wait for it."""
        if self.alive:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_EXIT_SECONDS)

    @classmethod
    def stop_current(cls) -> None:
        """The atexit hook."""
        thread, cls.current = cls.current, None
        if thread is not None:
            thread.stop()

    @classmethod
    def forget_after_fork(cls) -> None:
        """In a forked child: the thread is gone, its loop and connections are the parent's."""
        cls._lock = threading.RLock()
        thread, cls.current = cls.current, None
        if thread is not None:
            immortalise(thread)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # The loop is ours alone, so the faster kind may serve whatever loops the program itself uses.
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _after_fork_in_child() -> None:
    LoopThread.forget_after_fork()
    endpoints.replace_lock_after_fork()
    links.bury_inherited_links()


# Registered at import, so that exit handlers of the program, registered later and therefore run earlier, can still use
# every tool.
atexit.register(LoopThread.stop_current)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
