"""The connection of a `Tracker`: asks the server to track, listens, and makes sure that it still hears something."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from contextvars import Context
from typing import Any, Final, cast

from ractogateway.errors import NotSent, StoreRefused
from ractogateway.redis.transport import failures, multiplexer
from ractogateway.redis.transport.call import Command
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import UNANSWERED, Exchange
from ractogateway.redis.transport.link import Link, Wire
from ractogateway.redis.transport.links import adopt, enlist, peek_link
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.tracking import BEAT_SECONDS, PATIENCE_SECONDS, Tracker

logger = logging.getLogger("ractogateway.redis.transport")

# HELLO tells which protocol is spoken: over RESP2 a server agrees to track, and never says a word. The PING is the
# first proof of life.
_SUBSCRIPTION: Final[tuple[Command, ...]] = ((b"HELLO",), (b"CLIENT", b"TRACKING", b"ON"), (b"PING",))
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_UNSUPPORTED_SECONDS = 60.0

_told: weakref.WeakKeyDictionary[Endpoint, str] = weakref.WeakKeyDictionary()
"""The reason that was logged last: a process with a loop a request says it once, not once a loop."""


class TrackingLink(Link):
    """A link whose connection is kept open while anybody listens. All methods belong to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> None:
        super().__init__(loop, endpoint)
        self.tracker = Tracker()
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat: _Heartbeat | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._owner = os.getpid()

    def start(self) -> None:
        """Connect now."""
        if self._address.is_cluster:
            self._withdraw("the nodes of a cluster are not tracked")
        else:
            self._reach()

    def _beat(self) -> None:
        # A child that goes on in the loop of its parent must not write to the parent's connection.
        if self.closed or os.getpid() != self._owner:
            return
        if self._connecting is None and not self.tracker.wanted:
            self.close_soon()
        elif self.connected:
            if self.tracker.supported and self._heartbeat is None:
                self._heartbeat = _Heartbeat(self)
                self.submit(self._heartbeat)
            self._beat_in(BEAT_SECONDS)
        else:
            self._reach()

    def _reach(self) -> None:
        if self._connecting is None:
            self._connecting = self.loop.create_task(self._connect(), context=Context())
        self._beat_in(self._next_pause())

    def _beat_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed:
            self._timer = self.loop.call_later(seconds, self._beat, context=self._context)

    def _next_pause(self) -> float:
        pause = self._pause_seconds
        longest = _LONGEST_PAUSE_SECONDS if self.tracker.supported else _LONGEST_PAUSE_UNSUPPORTED_SECONDS
        self._pause_seconds = min(2 * pause, longest)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def answered(self, heartbeat: _Heartbeat) -> None:
        """A heartbeat has come back, perhaps late, or its connection is lost."""
        self._heartbeat = None
        if heartbeat.failure is None:
            self.tracker.proved(heartbeat.asked_at)

    # --- the connection ----------------------------------------------------------------------------------------------

    async def _open_wire(self) -> Wire:
        try:
            return await super()._open_wire()
        except StoreRefused as error:  # HELLO 3, for one
            self._withdraw(str(error))
            raise

    async def _prepare(self, wire: Wire) -> None:
        if not isinstance(wire, Multiplexer) or not hasattr(multiplexer.hiredis, "PushNotification"):
            self._withdraw("it needs hiredis 3 and a release of redis-py whose connections can be taken over")
            return
        wire.on_push = self._take_push
        asked_at = time.monotonic()
        obstacle = _obstacle(await self._subscribe(wire))
        if obstacle:
            self._withdraw(obstacle)
            return
        self.tracker.permit()
        self.tracker.proved(asked_at)
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._beat_in(BEAT_SECONDS)
        endpoint = self._endpoint()
        if endpoint is not None and _told.pop(endpoint, ""):
            logger.info("near cache on: the server tracks again")

    async def _subscribe(self, wire: Multiplexer) -> Sequence[Any]:
        question = _Question(_SUBSCRIPTION, self.loop.create_future())
        wire.submit(question)
        try:
            async with asyncio.timeout(self._options.connect_timeout_seconds):
                await question.answered
        except TimeoutError:
            await wire.aclose(failures.lost_connection(TimeoutError()))
        if UNANSWERED in question.replies:
            raise NotSent("the connection to Redis was lost before it could track")
        return question.replies

    def _take_push(self, push: Any) -> None:
        if push[0] == b"invalidate":
            self.tracker.drop(push[1])

    def _withdraw(self, reason: str) -> None:
        self.tracker.withdraw(reason)
        endpoint = self._endpoint()
        if endpoint is not None and _told.get(endpoint) != reason:
            _told[endpoint] = reason
            logger.warning("near cache off: %s", reason)

    def _on_lost(self, wire: Wire) -> None:
        self.tracker.suspend()
        super()._on_lost(wire)
        self._beat_in(self._next_pause())

    def close_soon(self) -> None:
        """Every copy goes now, for whoever comes next gets another link and another tracker; then the connection."""
        self.tracker.suspend()
        super().close_soon()

    async def aclose(self) -> None:
        """Close the connection; every copy goes."""
        self.tracker.suspend()
        if self._timer is not None:
            self._timer.cancel()
        await super().aclose()


def _obstacle(replies: Sequence[Any]) -> str:
    """Why this server does not track for us; empty if it does."""
    hello, tracking, _pong = replies
    if isinstance(tracking, Exception):
        code = failures.server_error_code(tracking)
        if code == "NOPERM":
            return "the ACL of Redis forbids this user CLIENT TRACKING"
        return f"the server knows no CLIENT TRACKING ({code})"
    if not isinstance(hello, dict) or hello.get(b"proto") != 3:  # noqa: PLR2004 - the number of the protocol
        return "the server does not speak RESP3"
    return ""


class _Question(Exchange):
    __slots__ = ("answered",)

    def __init__(self, commands: Sequence[Command], answered: asyncio.Future[None]) -> None:
        super().__init__(commands)
        self.answered = answered

    def wake(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)


class _Heartbeat(Exchange):
    """A PING. Whatever it is answered with, all invalidations before it have arrived."""

    __slots__ = ("_link", "asked_at")

    def __init__(self, link: TrackingLink) -> None:
        self.asked_at = time.monotonic()
        super().__init__(((b"PING",),), self.asked_at + PATIENCE_SECONDS)
        self._link = link

    def wake(self) -> None:
        self._link.answered(self)

    def expire(self) -> None:
        # The connection is left to its own rule for stalls: should the answer come late, tracking goes on.
        self.deadline = float("inf")
        self._link.tracker.suspend()


_making = threading.RLock()


def tracking_link_for(loop: asyncio.AbstractEventLoop, endpoint: Endpoint, key: str) -> TrackingLink:
    """The tracking link of this loop to this endpoint, under this key among the loop's links. From any thread."""
    link = cast("TrackingLink | None", peek_link(loop, key))
    if link is None or link.closed or not link.belongs_to(endpoint):
        with _making:
            link = cast("TrackingLink | None", peek_link(loop, key))
            if link is None or link.closed:
                link = enlist(TrackingLink(loop, endpoint), key, endpoint)
                with contextlib.suppress(RuntimeError):  # the loop was closed a moment ago
                    loop.call_soon_threadsafe(link.start, context=Context())
            elif not link.belongs_to(endpoint):
                adopt(link, endpoint)
    return link


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603 - the lock is module state by nature
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
