"""One computation of an answer for all who ask for it: in this process, and in the fleet.

Every caller asks Redis for the answer or whose lease there is on computing it: by a plain read, and where that finds
nothing, by a script (`lookup.lua`). Redis alone decides, so a call that begins after an invalidation has returned never
gets what was computed before it: the lease that was overtaken is not the one that the script names. What this module
adds:

* *Groups.* Callers of one turn of an event loop share one such question. Blocking callers ask for themselves: a thread
  that waited for a loop might be the one in which that loop runs.
* *Flights.* Callers who are told of a lease that this process holds wait for that computation, and get its answer.
* *Watches.* Callers who are told of another process's lease wait for its end, by push where the server tracks, else
  by asking again at growing intervals. One of them watches for all.

Nobody waits for a computation under which it runs itself, nor for one that its own thread would have to go on with.
Whoever waited in vain (the computation failed, its answer may not be shared, its process died) asks again, and may be
the next one to compute. Nobody gets somebody else's error. Who has been disappointed twice, or has waited for
``max_wait_seconds``, makes a call of its own.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ractogateway._forking import renewed_after_fork
from ractogateway.errors import StoreError
from ractogateway.messages import LLMResponse
from ractogateway.redis._cache.store import Life
from ractogateway.redis._cache.wakers import Wakers
from ractogateway.redis.keys import CacheKeys
from ractogateway.redis.scripts import cache_calls as calls
from ractogateway.redis.scripts.cache_calls import Found, Status
from ractogateway.redis.stamps import FRESH_BYTES, TOKEN_BYTES, Entry, tags_of
from ractogateway.redis.transport import Fill, Loop, Port, Signal, TrackedPort

LEASE_SECONDS: Final = 4.0
"""How long a computation is thought to go on after its last sign of life."""
BEAT_SECONDS: Final = LEASE_SECONDS / 3

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.25
_RELEASE_SECONDS = 0.5
_LATE_SECONDS = 0.005
_MOST_LOOKUPS = 3
"""One, and one more for each of an entry and a lease whose tags have to be asked about."""

_under: ContextVar[frozenset[bytes]] = ContextVar("computations under which this code runs", default=frozenset())


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks for, and how it would answer it."""

    keys: CacheKeys
    fingerprint: bytes
    tags: tuple[bytes, ...]
    temperature: float
    max_temperature: float
    life: Life
    compute: Callable[[], Any]


class Flight:
    """One computation in this process.

    Attributes:
        token: the name of its lease.
        claim: the value of its lease; empty when it was begun without Redis.
        answered: its answer is there, though perhaps not stored yet; or it has ended without one.
        done: it has ended.
        result: what it returned to whoever began it.
        error: what it raised.
        shared: makes the answer for each of the others, marked as a hit; None if there is none.
        callers: how many wait for it; when nobody does any more before there is an answer, it is cancelled.
    """

    __slots__ = (
        "_loop",
        "_thread",
        "answered",
        "callers",
        "cancel",
        "claim",
        "done",
        "error",
        "result",
        "shared",
        "token",
    )

    def __init__(self, token: bytes, claim: bytes, loop: Loop | None) -> None:
        self._thread = threading.get_ident()
        self._loop = None if loop is None else weakref.ref(loop)  # weak: it may be forgotten before this table is
        self.token = token
        self.claim = claim
        self.answered = Signal()
        self.done = Signal()
        self.result: LLMResponse | None = None
        self.error: BaseException | None = None
        self.shared: Callable[[], LLMResponse | None] | None = None
        self.callers = 1
        self.cancel: Callable[[], object] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it can never end, because the event loop in which it ran is closed."""
        loop = None if self._loop is None else self._loop()
        return self._loop is not None and (loop is None or loop.is_closed())

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What runs in this context meanwhile belongs to this computation."""
        self._thread = threading.get_ident()  # blocking callers' renewals have a thread of their own
        before = _under.set(_under.get() | {self.token})
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):  # closed from another context, when its loop was
                _under.reset(before)

    def may_be_awaited(self, *, blocking: bool) -> bool:
        """Whether waiting for it can end: not below itself, and not where it would stop the thread that is at it."""
        return not is_above(self.token) and not (blocking and self._thread == threading.get_ident())


def is_above(name: bytes) -> bool:
    """Whether this code runs on behalf of the computation of this name."""
    return name in _under.get()


class Reply(NamedTuple):
    """What a caller is told.

    Attributes:
        found: what Redis says.
        own: whether it is the reply to this caller's own question rather than its group's.
        fill: the right to be told of changes of what was read; None where the server tells of none.
    """

    found: Found
    own: bool
    fill: Fill | None


@dataclass(eq=False, slots=True)
class _Group:
    """Callers who share one lookup."""

    answered: Signal = field(default_factory=Signal)
    reply: Reply | None = None
    failure: StoreError | None = None


@dataclass(eq=False, slots=True)
class _Watch:
    """Callers who share one wait for the end of a lease."""

    over: Signal = field(default_factory=Signal)
    thread: int = field(default_factory=threading.get_ident)


class FlightTable:
    """What is under way in this process, for one cache object and its faces. Safe for threads."""

    def __init__(self) -> None:
        renewed_after_fork(self)
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """In a forked child: those who computed have stayed in the parent."""
        self.lock = threading.RLock()
        self.groups: dict[tuple[Loop, bytes, tuple[bytes, ...]], _Group] = {}
        self.flights: dict[bytes, Flight] = {}
        self.watches: dict[tuple[Loop | None, bytes], _Watch] = {}

    def join(self, name: bytes) -> Flight | None:
        """The flight of this name, with one more caller who waits for it; None if there is none."""
        with self.lock:
            flight = self.flights.get(name)
            if flight is None:
                return None
            if flight.is_lost:
                del self.flights[name]
                return None
            flight.callers += 1
            return flight

    def join_or_begin(self, name: bytes, loop: Loop | None) -> tuple[Flight, bool]:
        """The flight of this name, begun without a lease if there is none; whether it was begun."""
        with self.lock:
            flight = self.join(name)
            if flight is not None:
                return flight, False
            flight = self.flights[name] = Flight(name, b"", loop)
            return flight, True

    def end(self, flight: Flight) -> None:
        """It is over, for everybody."""
        with self.lock:
            if self.flights.get(flight.token) is flight:
                del self.flights[flight.token]
        flight.answered.happen()
        flight.done.happen()

    def forget(self, *names: bytes) -> None:
        """Computations of these answers that were begun without Redis are overtaken: nobody joins them any more. Of all
        answers, if none is named. Of those with a lease, Redis knows.
        """
        with self.lock:
            for name in names or [name for name, flight in self.flights.items() if not flight.claim]:
                self.flights.pop(name, None)

    def leave(self, flight: Flight) -> None:
        """One caller fewer. What has been computed, and paid for, is stored all the same."""
        with self.lock:
            flight.callers -= 1
            deserted = not flight.callers and not flight.answered.happened
        if deserted and flight.cancel is not None:
            flight.cancel()


class Lookups:
    """Questions to Redis, and waits for other processes' answers, for one core.

    Args:
        port: the core's own.
        tracked: its tracked twin; None where there is none.
        table: shared with the core's other face.
    """

    def __init__(self, port: Port, tracked: TrackedPort | None, table: FlightTable) -> None:
        self._port = port
        self._tracked = tracked
        self._waits = False  # it has waited for another process, so it tracks
        self._misses = False  # the last question found nothing: the next one will probably not, either
        self.table = table

    async def ask(
        self, question: Question, *, life_ms: int | None, early: float | None, stale: bool, token: bytes, again: bool
    ) -> Reply:
        """Look an answer up; ``again`` if there was none a moment ago.

        If the reply is the caller's own, and a lease was taken, its flight is entered into the table before anybody of
        the group hears of it.

        Raises:
            StoreError: as `Port.run`.
        """
        how = {"life_ms": life_ms, "early": early, "stale": stale, "again": again}
        loop = self._port.loop()
        if loop is None:
            reply = await self._ask_or_release(question, token=token, **how)
            self._enter(reply.found, token)
            return reply
        name = (loop, question.fingerprint, question.tags)
        while True:
            with self.table.lock:
                group = self.table.groups.get(name)
                leads = group is None
                if group is None:
                    group = self.table.groups[name] = _Group()
            if not leads:
                while not await self._port.wait(group.answered, LEASE_SECONDS):
                    pass  # its own call, which has a time limit, goes on in this loop
                if group.failure is not None:
                    raise copy.copy(group.failure)  # raised by many, one would collect the tracebacks of all of them
                if group.reply is not None:
                    return group.reply._replace(own=False)
                continue  # the one who asked for the group was cancelled
            try:
                try:
                    await self._port.gather()
                finally:
                    self._close(name, group)
                reply = await self._ask_or_release(question, token=token, **how)
                self._enter(reply.found, token)
                group.reply = reply
            except StoreError as failure:
                group.failure = failure
                raise
            finally:
                group.answered.happen()
            return reply

    def _close(self, name: tuple[Loop, bytes, tuple[bytes, ...]], group: _Group) -> None:
        with self.table.lock:
            if self.table.groups.get(name) is group:
                del self.table.groups[name]

    def _enter(self, found: Found, token: bytes) -> None:
        if found.stamp:
            with self.table.lock:
                self.table.flights[token] = Flight(token, token + found.stamp, self._port.loop())

    async def _ask_or_release(self, question: Question, *, token: bytes, **how: Any) -> Reply:
        """Ask; and leave no lease behind if the caller is cancelled meanwhile."""
        try:
            return await self._ask(question, token=token, **how)
        except StoreError:
            raise
        except BaseException:
            await self.release(question, token)
            raise

    async def _ask(
        self, question: Question, *, life_ms: int | None, early: float | None, stale: bool, token: bytes, again: bool
    ) -> Reply:
        # A hit by script costs the server and us more than twice a plain command, which for a miss is a round trip too
        # many: the last question tells which way to begin. Where a hit may have to be renewed, or may be a stale one,
        # the script alone can say.
        if not (self._misses or again or early is not None or stale):
            stored = await self._stored(question)
            if stored is not None:
                return Reply(stored, own=True, fill=None)
        # What fails here is tried by a plain command the next time: that is served where scripts that write are not.
        self._misses = False
        other_tags: list[bytes] = []
        for _ in range(_MOST_LOOKUPS):
            call = calls.look_up(
                question.keys,
                question.fingerprint,
                token=token,
                lease_ms=round(LEASE_SECONDS * 1000),
                life_ms=life_ms,
                early=early,
                stale=stale,
                own_tags=question.tags,
                other_tags=other_tags,
                fresh=os.urandom(FRESH_BYTES),
            )
            # What the script reads on a tracking connection, the server remembers: a caller who has to wait need not
            # read the lease again to be told of its end. Before anybody had to wait there is no such connection.
            fill = None
            if self._waits and self._tracked is not None:
                found, fill = await self._tracked.fetch(call)
            else:
                found = await self._port.run(call)
            if found.status is not Status.TELL:
                self._misses = found.status not in (Status.HIT, Status.STALE)
                return Reply(found, own=True, fill=fill)
            known = (*question.tags, *other_tags)  # what was told before is still to be checked
            other_tags += [tag_id for tag_id, _ in (tags_of(found.value) or ()) if tag_id not in known]
        # Others write all the time, each with tags of its own: as if somebody unknown computed, for a moment.
        return Reply(Found(Status.WAIT, token, 0, b""), own=True, fill=None)

    async def _stored(self, question: Question) -> Found | None:
        """A live entry; None where there is none, or more would have to be asked about it."""
        generation, value = await self._port.run(calls.read_entry(question.keys, question.fingerprint))
        if generation is None or value is None:
            return None
        entry = Entry.of(value, generation)
        return None if entry is None or entry.tags or entry.grace_ms else Found(Status.HIT, value, -1, b"")

    async def release(self, question: Question, token: bytes) -> None:
        """Give up a lease, if there is one, whatever has happened to the caller."""
        # By the way that the question took: behind it.
        port = self._tracked if self._waits and self._tracked is not None else self._port

        async def work() -> None:
            await port.run(calls.release_lease(question.keys, question.fingerprint, token))

        with contextlib.suppress(Exception):  # then it ends by itself: nothing here may cost anybody an answer
            await self._port.cleanup(work, seconds=_RELEASE_SECONDS)

    async def await_lease(self, question: Question, reply: Reply, seconds: float, pause: float) -> float:
        """Wait until another process's lease may have ended, for so long at most; how long to pause the next time."""
        pause = max(pause, _FIRST_PAUSE_SECONDS)
        name = (self._port.loop(), question.fingerprint)  # of one loop, or of blocking callers: as for groups
        with self.table.lock:
            watch = self.table.watches.get(name)
            watches = watch is None
            if watch is None:
                watch = self.table.watches[name] = _Watch()
        if not watches:
            if name[0] is None and watch.thread == threading.get_ident():  # a signal handler has come between
                await self._port.sleep(min(pause, seconds))
            else:
                await self._port.wait(watch.over, seconds)
            return min(2 * pause, _LONGEST_PAUSE_SECONDS)
        try:
            pushed = await self._watch(question, reply, seconds)
            if not pushed:
                await self._port.sleep(min(pause * random.uniform(0.5, 1.0), seconds))  # noqa: S311 - jitter
        finally:
            with self.table.lock:
                if self.table.watches.get(name) is watch:
                    del self.table.watches[name]
            watch.over.happen()
        # Those who were woken need two turns of the loop to be where this one is: then all of them ask together.
        for _ in range(2):
            await self._port.gather()
        return _FIRST_PAUSE_SECONDS if pushed else min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _watch(self, question: Question, reply: Reply, seconds: float) -> bool:
        """Wait for news of the lease by push; False where nothing is pushed.

        Raises:
            StoreError: as `Port.run`.
        """
        tracked = self._tracked
        if tracked is None:
            return False
        self._waits = True
        end, fill = self._port.now() + seconds, reply.fill
        left, key = reply.found.left_ms / 1000, question.keys.lease(question.fingerprint)
        while tracked.tracker().supported:
            signal = Signal()
            if fill is None:
                lease, fill = await tracked.fetch(calls.read_lease(question.keys, question.fingerprint))
                if lease is None or lease[:TOKEN_BYTES] != reply.found.value:
                    return True
                if not self._arm(fill, key, signal):
                    return False
            elif not self._arm(fill, key, signal):
                fill = None  # something has changed since: read what
                continue
            began = self._port.now()
            try:
                # Expiry is pushed late, so it is not waited for.
                happened = await self._port.wait(signal, min(left + _LATE_SECONDS, end - began))
            finally:
                fill.tracker.listener(self.table, Wakers).discard(key)
            # What changes a lease before its next renewal is due is its end, and need not be looked at.
            next_beat = began + left - (LEASE_SECONDS - BEAT_SECONDS) - _LATE_SECONDS
            if not happened or self._port.now() < next_beat:
                return True
            left, fill = LEASE_SECONDS, None  # it may have been renewed just now
        return False

    def _arm(self, fill: Fill, key: bytes, signal: Signal) -> bool:
        """Have the signal happen at the next change of the lease; False if it has changed since the fill began."""
        wakers = fill.tracker.listener(self.table, Wakers)
        return fill.keep(lambda: wakers.add(key, signal))
