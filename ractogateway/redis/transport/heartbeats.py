"""Calls that are sent at intervals in the background: what a lease needs to outlive its holder's long work, but not its
holder.

A `Heartbeat` is the holder's handle. What beats is a `_Pulse`, which knows nothing of the handle: a handle that is
stopped, or forgotten, stops its pulse. All pulses of an event loop, or of a given blocking client, wait in one
`Pacemaker` with one timer, so that starting and stopping one costs a blocking caller no wake-up of another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import Any, Final, cast

from ractogateway.errors import RactoGatewayError

Beat = Callable[[], Coroutine[Any, Any, bool]]

_PACEMAKER: Final = "_ractogateway_pacemaker"
_FEW = 64
"""Stopped pulses that are not worth a sweep."""


class Heartbeat:
    """Beats until it is stopped, is garbage-collected, or a reply is False. Made by `Port.every`."""

    __slots__ = ("__weakref__", "_pulse")

    def __init__(self, pulse: _Pulse) -> None:
        self._pulse = pulse
        weakref.finalize(self, pulse.stop).atexit = False

    @property
    def ended(self) -> bool:
        """Whether a reply was False: what was to be kept alive is gone."""
        return self._pulse.ended

    def stop(self) -> None:
        """No further beat is sent; one that is under way goes on. From any thread; twice is as good as once."""
        self._pulse.stop()


class _Pulse:
    """What beats, and how often."""

    __slots__ = ("beat", "ended", "interval_seconds", "pacemaker", "stopped")

    def __init__(self, pacemaker: Pacemaker, interval_seconds: float, beat: Beat) -> None:
        self.pacemaker = pacemaker
        self.interval_seconds = interval_seconds
        self.beat = beat
        self.stopped = False
        self.ended = False

    def stop(self) -> None:
        # No lock: a finalizer may come here in the middle of anything.
        if not self.stopped:
            self.stopped = True
            self.pacemaker.stopped += 1

    async def perform(self) -> None:
        """Send one beat. What goes wrong is left to the next one."""
        try:
            if not await self.beat():
                self.ended = True
                self.stop()
        except RactoGatewayError:
            return


class Pacemaker(ABC):
    """Pulses in the order in which they are due. Any thread may start one; one thread lets them beat."""

    def __init__(self) -> None:
        self.stopped = 0  # pulses that still wait although they were stopped; about right is enough
        self._owner = os.getpid()
        self._waiting: list[tuple[float, int, _Pulse]] = []
        self._order = itertools.count()
        self._wakes_at = math.inf
        # Reentrant: a signal handler may start a pulse in the thread that holds it. Each change is one heap operation.
        self._lock = threading.RLock()

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one whose leases are kept here."""
        return self._owner != os.getpid()

    def start(self, interval_seconds: float, beat: Beat) -> Heartbeat:
        """Let something beat, for the first time after one interval."""
        pulse = _Pulse(self, interval_seconds, beat)
        self._await(pulse)
        return Heartbeat(pulse)

    def _await(self, pulse: _Pulse) -> None:
        due = time.monotonic() + pulse.interval_seconds
        with self._lock:
            if self.stopped > _FEW and 2 * self.stopped > len(self._waiting):
                self._sweep()
            heapq.heappush(self._waiting, (due, next(self._order), pulse))
            sooner = due < self._wakes_at
            if sooner:
                self._wakes_at = due
        if sooner:
            self._wake_at(due)

    def _sweep(self) -> None:
        self._waiting = [entry for entry in self._waiting if not entry[2].stopped]
        heapq.heapify(self._waiting)
        self.stopped = 0

    def _take_due(self) -> tuple[list[_Pulse], float]:
        """Pulses whose time has come, and when to ask again (infinity: when somebody wakes this pacemaker)."""
        due: list[_Pulse] = []
        now = time.monotonic()
        with self._lock:
            while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][2].stopped):
                pulse = heapq.heappop(self._waiting)[2]
                if pulse.stopped:
                    self.stopped -= 1
                else:
                    due.append(pulse)
            self._wakes_at = self._waiting[0][0] if self._waiting else math.inf
            return due, self._wakes_at

    @abstractmethod
    def _wake_at(self, due: float) -> None:
        """Some pulse is due earlier than all others; called by whoever started it."""


class LoopPacemaker(Pacemaker):
    """Beats as tasks of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._farewell: AsyncGenerator[None, None] | None = None
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Neither timers nor tasks belong to the request that happened to start a pulse.
        self._context = Context()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopPacemaker:
        """The pacemaker of a loop, which lives on the loop itself and dies with it."""
        found = cast("LoopPacemaker | None", loop.__dict__.get(_PACEMAKER))
        if found is None or found.inherited:
            # setdefault: threads may come here at the same time, and all must find the same one.
            if found is not None:
                loop.__dict__.pop(_PACEMAKER, None)
            found = loop.__dict__.setdefault(_PACEMAKER, cls(loop))
        return found

    @staticmethod
    def end_in(loop: asyncio.AbstractEventLoop) -> None:
        """A loop of ours is about to close its connections: nothing beats in it any more."""
        found = cast("LoopPacemaker | None", loop.__dict__.get(_PACEMAKER))
        if found is not None:
            found.end()

    def _wake_at(self, due: float) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._set_timer(due)
        else:
            try:
                self._loop.call_soon_threadsafe(self._set_timer, due, context=self._context)
            except RuntimeError:  # the loop was closed a moment ago
                return

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._over:
            return
        if self._farewell is None:
            self._farewell = _until_the_loop_ends(weakref.ref(self))
            with contextlib.suppress(StopIteration):  # it has begun, and the loop knows of it
                self._farewell.asend(None).send(None)
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._beat, context=self._context)

    def end(self) -> None:
        """The loop is shutting down: a beat now, or its retry, would connect anew, and leave the connection behind."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _beat(self) -> None:
        self._timer = None
        if self.inherited:  # a child that goes on in the loop of its parent
            return
        due, again_at = self._take_due()
        for pulse in due:
            task = self._loop.create_task(self._keep_up(pulse), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if again_at < math.inf:
            self._set_timer(again_at)

    async def _keep_up(self, pulse: _Pulse) -> None:
        if not self._over:
            await pulse.perform()
        if not (pulse.stopped or self._over):
            self._await(pulse)


async def _until_the_loop_ends(reference: weakref.ref[LoopPacemaker]) -> AsyncGenerator[None, None]:
    """Suspended until its loop shuts its asynchronous generators down, as asyncio.run does."""
    try:
        yield
    finally:
        pacemaker = reference()
        if pacemaker is not None:
            pacemaker.end()


class ThreadPacemaker(Pacemaker):
    """Beats in a thread of its own, which ends when nothing is left to beat."""

    def __init__(self) -> None:
        super().__init__()
        self._woken = threading.Event()
        self._running = False

    def _wake_at(self, due: float) -> None:  # noqa: ARG002 - the thread asks for itself
        self._woken.set()
        with self._lock:
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._main, name="ractogateway-heartbeat", daemon=True).start()
        except RuntimeError:  # late in the exit of the interpreter
            self._running = False

    def _main(self) -> None:
        try:
            while self._beat():
                pass
        except BaseException:  # a bug, in the client that was given or ours: whoever starts the next pulse starts anew
            self._running = False
            raise

    def _beat(self) -> bool:
        """One round; False when nothing is left and the thread has signed off."""
        self._woken.clear()
        due, _ = self._take_due()
        for pulse in due:
            with contextlib.suppress(StopIteration):  # the awaitables of a blocking port never suspend
                pulse.perform().send(None)
            if not pulse.stopped:
                self._await(pulse)
        with self._lock:
            again_at = self._wakes_at
            if again_at == math.inf and not self._woken.is_set():
                self._running = False
                return False
        self._woken.wait(max(0.0, again_at - time.monotonic()))
        return True


_of_clients: weakref.WeakKeyDictionary[object, ThreadPacemaker] = weakref.WeakKeyDictionary()
_of_clients_lock = threading.RLock()


def pacemaker_of_client(client: object) -> ThreadPacemaker:
    """The pacemaker of a blocking client that was given: one a client, so that one that hangs delays no other."""
    with _of_clients_lock:
        found = _of_clients.get(client)
        if found is None or found.inherited:
            found = _of_clients[client] = ThreadPacemaker()
        return found


def _after_fork_in_child() -> None:
    global _of_clients_lock  # noqa: PLW0603 - the lock is module state by nature
    _of_clients_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
