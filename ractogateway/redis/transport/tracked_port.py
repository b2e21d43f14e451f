"""Ports whose reads the server remembers, so that a near cache can be filled from them; see `tracking`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from ractogateway.errors import InvalidValueError
from ractogateway.redis.transport.asyncio_port import AsyncioPort, running_loop
from ractogateway.redis.transport.call import Call
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.link import Link
from ractogateway.redis.transport.loop_thread import Lane, LoopThread, NoThread
from ractogateway.redis.transport.port import Port, RetryingPort
from ractogateway.redis.transport.thread_port import ThreadPort
from ractogateway.redis.transport.tracking import Fill, Tracker
from ractogateway.redis.transport.tracking_link import TrackingLink, tracking_link_for

T = TypeVar("T")

_NO_TRACKER: Final = Tracker()
"""Where no thread can be started any more."""


class TrackedPort(RetryingPort):
    """The same way to the same server, with the same time limits, retries and breaker as the port it was made from.

    Reads go over the tracking connection while that tracks, and over the ordinary one otherwise: a near cache that is
    out of order costs nothing. Writes do not belong here.
    """

    def tracker(self) -> Tracker:
        """The tracker of whoever asks: of the running loop, or of the private thread. It is made, and its connection
        opened in the background, on first use.
        """
        link = self._tracking_link()
        return _NO_TRACKER if link is None else link.tracker

    async def fetch(self, call: Call[T]) -> tuple[T, Fill]:
        """Run a call; its reply, and the right to keep a copy of that, to be used through `Fill.keep`.

        The call must read its keys by commands that cannot write (GET, MGET, also inside of a script): what ``SET …
        NX GET`` reads, the server does not remember.

        Raises:
            StoreError: as `Port.run`.
        """
        fill = self.tracker().begin(call.keys)
        return await self.run(call), fill

    async def fetch_many(self, calls: Sequence[Call[Any]]) -> list[tuple[Any, Fill]]:
        """The same for several calls in one round trip.

        Raises:
            StoreError: as `Port.run_many`.
        """
        tracker = self.tracker()
        fills = [tracker.begin(call.keys) for call in calls]
        return list(zip(await self.run_many(calls), fills, strict=True))

    @abstractmethod
    def _tracking_link(self) -> TrackingLink | None:
        """The tracking link of whoever asks."""


class _TrackedAsyncioPort(TrackedPort, AsyncioPort):
    def __init__(self, port: AsyncioPort) -> None:
        super().__init__(port._endpoint, port._limits, port._breaker)  # noqa: SLF001 - one of its own kind
        self._key = _key(self._endpoint.key)

    def _tracking_link(self) -> TrackingLink:
        return tracking_link_for(running_loop(), self._endpoint, self._key)

    def _link(self, *, bulky: bool) -> Link:
        link = self._tracking_link()
        return link if link.tracker.tracking else super()._link(bulky=bulky)


class _TrackedThreadPort(TrackedPort, ThreadPort):
    def __init__(self, port: ThreadPort) -> None:
        super().__init__(port._endpoint, port._limits, port._breaker)  # noqa: SLF001 - one of its own kind
        self._key = _key(self._endpoint.key)

    def _tracking_link(self) -> TrackingLink | None:
        try:
            link = tracking_link_for(LoopThread.get().loop, self._endpoint, self._key)
        except NoThread:
            return None
        link.short_cut = True
        return link

    def _lane(self, *, bulky: bool) -> Lane:
        thread = LoopThread.get()
        link = tracking_link_for(thread.loop, self._endpoint, self._key)
        if link.tracker.tracking:
            return _TrackedLane(thread, self._endpoint, link)
        return super()._lane(bulky=bulky)


class _TrackedLane(Lane):
    """The way through the private thread to a tracking connection."""

    __slots__ = ("_link",)

    def __init__(self, thread: LoopThread, endpoint: Endpoint, link: TrackingLink) -> None:
        super().__init__(thread, endpoint, bulky=False)
        self._link = link

    def link(self) -> TrackingLink:
        return self._link

    def submit(self, exchange: Exchange) -> None:
        self._link.submit(exchange)


def _key(endpoint_key: str) -> str:
    return f"tracking {endpoint_key}"


def open_tracked_port(port: Port) -> TrackedPort:
    """The tracked twin of a port that goes by URL.

    Raises:
        InvalidValueError: the port is over a client that was given; whoever gave it owns its connections.
    """
    if isinstance(port, AsyncioPort):
        return _TrackedAsyncioPort(port)
    if isinstance(port, ThreadPort):
        return _TrackedThreadPort(port)
    raise InvalidValueError("a near cache goes with url=: a given client's connections are not ours to track on")
