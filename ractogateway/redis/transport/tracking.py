"""What a near cache (copies of Redis values in this process) needs from the transport: to be told when a copy is stale.

Every event loop keeps one more connection an endpoint, in ``CLIENT TRACKING ON``, for nothing but such reads
(`TrackedPort.fetch`). The server remembers the keys that are read on it and pushes their names when anybody changes
them, lets them expire or evicts them. The pieces:

==================  ====================================================================================================
`TrackedPort`       reads a key and hands out the reply together with a `Fill`
`Fill`              the right to keep that reply as a copy, unless it was overtaken meanwhile
`Listener`          the near cache's own part: drops copies when it is told
`Tracker`           one connection's state: whether copies may be served now, who listens, which fills are overtaken
`own_write`         wraps a write of this process
==================  ====================================================================================================

A lookup::

    port = open_tracked_port(self._port)  # once; an error for the ports of given clients

    tracker = port.tracker()  # each time: of the loop that runs
    copies = tracker.listener(self, Copies)  # made on first use, one a tracker
    if tracker.alive and (copy := copies.get(key)) is not None:
        return copy
    value, fill = await port.fetch(read_call)
    fill.keep(lambda: copies.put(key, value))

and a write::

    with own_write(key):
        await self._port.run(write_call)

**What is promised.** A copy is not served (1) after its invalidation was received, (2) after a write of this process to
its key has returned, (3) two seconds after the last proof that the connection is whole. Why that holds:

* *One lock a tracker.* Invalidations mark overtaken fills and reach the listeners under it, and `Fill.keep` looks for
  the mark and stores under it. So a copy is either stored before the invalidation, which then drops it, or not at all.
  Readers take no lock: a lookup that finds a copy comes before its removal, and that is when it was served.
* *The fill race.* A fill is marked as begun before its read is sent. A write that the read did not see is executed
  after it, so its invalidation follows the reply on the same connection: the copy, stored or not yet, goes. A read
  over any other connection would not do: a fill is refused if tracking was not confirmed when it began, or was
  interrupted since (a lost connection, a missed heartbeat).
* *Own writes* travel on other connections than the invalidations that they cause, so a reply may outrun them. Hence
  `own_write` drops the copies of all trackers of the process, and refuses the fills under way, before the call returns,
  however it ends; a fill that begins later is executed by the server after the write. For a write whose outcome is
  unknown, and which is executed later, the invalidation comes as for a stranger's. NOLOOP would gain nothing (nothing
  is written on this connection) and lose the invalidation of a script that writes what it reads, so it is not used.
* *Silence* is not freshness. A PING a second, and `Tracker.alive` is a comparison with the clock: also a loop that was
  stopped by somebody's blocking code, and has not read its socket since, serves nothing old.

**Why not BCAST, why not OPTIN** (`benchmarks/tracking.py`; 2 cores, loopback, Valkey 9). With BCAST every write under
the prefix is pushed to every replica: 5 µs of server time each, 500 µs a write with 100 replicas. A response cache
writes almost only keys that nobody holds; those cost nothing here. OPTIN pushes the same and needs a CLIENT CACHING YES
before each read, for the sake of connections that also serve other things: fills run at 0.7 to 0.85 times the speed of
GET with it, at 0.95 to 1.0 times without. The listener hears of a change equally soon: 0.1 ms after the writer has its
reply, at p50.

**What the server does not see**: SWAPDB, and keys that were read by a writing command (``SET … NX GET``).
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, cast

BEAT_SECONDS = 1.0
"""Between two heartbeats."""

PATIENCE_SECONDS = 1.0
"""A heartbeat that is not answered for so long is missed."""

_MARKS = 1024
"""Keys share so many marks: an invalidation refuses one in a thousand of the fills under way for other keys, too."""


class Listener(Protocol):
    """Who holds copies."""

    def on_invalidate(self, keys: Sequence[bytes] | None) -> None:
        """These keys have changed, or None: anything may have (FLUSHALL, a lost connection, a missed heartbeat, the end
        of the loop). Copies of them must be gone when this returns; keys that are not held are to be ignored.

        Called in the loop's thread for what the server pushes, and in a writer's for `own_write`, always under the
        tracker's lock: it must be quick, must not raise, and must not wait for a lock that is held by somebody who
        calls a `Tracker`.
        """


L = TypeVar("L", bound=Listener)


class Fill:
    """A read whose reply may become a copy. Made by `Tracker.begin`; forgetting it costs nothing."""

    __slots__ = ("_stamp", "keys", "tracker")

    def __init__(self, tracker: Tracker, keys: Sequence[bytes], stamp: int | None) -> None:
        self.tracker = tracker
        self.keys = keys
        self._stamp = stamp

    def keep(self, store: Callable[[], object]) -> bool:
        """Call ``store`` unless an invalidation of one of the keys has been received since the fill began, or tracking
        was interrupted. True if it was called and the copy stands.

        ``store`` runs under the tracker's lock, with the same duties as `Listener.on_invalidate`.
        """
        return self.tracker.settle(self.keys, self._stamp, store)


class Tracker:
    """One tracking connection, as seen by those who hold copies. All methods may be called from any thread.

    Attributes:
        supported: False when the server, its ACL or the installed libraries do not allow tracking; asked again when the
            connection had to be made again. Then nothing is ever kept.
        reason: why not, in words for a log; empty otherwise.
        tracking: reads on the connection are remembered by the server.
    """

    def __init__(self) -> None:
        self.supported = True
        self.reason = ""
        self.tracking = False
        self._alive_until = -math.inf
        self._epoch = 0
        self._marks = [0] * _MARKS
        # Listeners live as long as their owners. The lock can be taken again by its holder: the garbage collector may
        # run a finaliser of somebody's in the middle, and that may write to a cache.
        self._listeners: weakref.WeakKeyDictionary[object, Listener] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()
        _enlist(self)

    @property
    def alive(self) -> bool:
        """Whether copies may be served at this moment: no invalidation can be missing for longer than two seconds."""
        return self.tracking and time.monotonic() < self._alive_until

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return len(self._listeners) > 0

    def listener(self, owner: object, make: Callable[[], L]) -> L:
        """The listener of this owner, made on first use and kept as long as ``owner`` and this tracker live.

        It must not refer to its owner, or neither is ever collected.
        """
        found = self._listeners.get(owner)
        if found is None:
            with self._lock:
                found = self._listeners.get(owner)
                if found is None:
                    found = self._listeners[owner] = make()
        return cast("L", found)  # what this owner's make() made

    def begin(self, keys: Sequence[bytes]) -> Fill:
        """Begin a fill, before its read is sent. Refused from the start when nothing is tracked now."""
        with self._lock:
            return Fill(self, keys, self._stamp(keys) if self.tracking else None)

    def settle(self, keys: Sequence[bytes], stamp: int | None, store: Callable[[], object]) -> bool:
        """See `Fill.keep`."""
        with self._lock:
            if stamp != self._stamp(keys):
                return False
            store()
            if stamp == self._stamp(keys):
                return True
            self.drop(keys)  # a finaliser wrote one of them in the middle of store()
            return False

    def drop(self, keys: Sequence[bytes] | None) -> None:
        """These keys (None: all) have changed: copies go, fills under way are refused."""
        with self._lock:
            if keys is None:
                self._epoch += 1
            else:
                for key in keys:
                    self._marks[hash(key) % _MARKS] += 1
            for listener in list(self._listeners.values()):
                listener.on_invalidate(keys)

    def _stamp(self, keys: Sequence[bytes]) -> int:
        # All of them only ever grow, so their sum is the same if and only if each of them is.
        stamp = self._epoch
        for key in keys:
            stamp += self._marks[hash(key) % _MARKS]
        return stamp

    # --- for the connection ------------------------------------------------------------------------------------------

    def proved(self, asked_at: float) -> None:
        """The connection has answered what was asked at that time (by time.monotonic), and tracks."""
        with self._lock:
            if self.supported:
                self.tracking = True
                self._alive_until = asked_at + BEAT_SECONDS + PATIENCE_SECONDS

    def suspend(self) -> None:
        """Invalidations may be missing from now on: everything goes."""
        with self._lock:
            self.tracking = False
            self._alive_until = -math.inf
            self.drop(None)

    def withdraw(self, reason: str) -> None:
        """Tracking is not to be had here."""
        with self._lock:
            self.supported, self.reason = False, reason
            self.suspend()

    def permit(self) -> None:
        """The server has agreed to track."""
        with self._lock:
            self.supported, self.reason = True, ""

    def disown(self) -> None:
        """In a forked child: the connection is the parent's, so nothing in here is ever true again."""
        self._lock = threading.RLock()
        self.supported, self.reason = False, "inherited by a fork"
        self.tracking = False


@contextlib.contextmanager
def own_write(*keys: bytes) -> Iterator[None]:
    """Around a write of this process: before it returns, or raises, every copy of these keys in the process is gone."""
    try:
        yield
    finally:
        forget(keys)


def forget(keys: Sequence[bytes] | None) -> None:
    """Drop the copies of these keys (None: all) of all trackers in this process, and refuse the fills under way.

    Of whatever server: two URLs may lead to the same one, and a copy too few does no harm.
    """
    for reference in _trackers:
        tracker = reference()
        if tracker is not None:
            tracker.drop(keys)


# A tuple that is replaced, not changed: `forget` reads it without a lock. A tracker that it misses is younger than the
# write that is being reported, so its fills have seen that write.
_trackers: tuple[weakref.ref[Tracker], ...] = ()
_trackers_lock = threading.RLock()


def _enlist(tracker: Tracker) -> None:
    global _trackers  # noqa: PLW0603 - the trackers of a process are module state by nature
    with _trackers_lock:
        _trackers = (*(reference for reference in _trackers if reference() is not None), weakref.ref(tracker))


def _after_fork_in_child() -> None:
    global _trackers, _trackers_lock  # noqa: PLW0603 - see above
    _trackers_lock = threading.RLock()
    for reference in _trackers:
        tracker = reference()
        if tracker is not None:
            tracker.disown()
    _trackers = ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
