"""Ports for callers that await."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from ractogateway._driving import drive
from ractogateway.errors import RactoGatewayError, StoreTimeout, UnsupportedEventLoopError
from ractogateway.redis.transport.breaker import Breaker
from ractogateway.redis.transport.call import Call, Command
from ractogateway.redis.transport.client_port import ClientPort, as_words, perform_with_client
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import UNANSWERED, Exchange, SentExchange
from ractogateway.redis.transport.heartbeats import Heartbeat, LoopPacemaker
from ractogateway.redis.transport.link import Link
from ractogateway.redis.transport.links import close_endpoint, link_for
from ractogateway.redis.transport.port import Port, RetryingPort, TimeLimits
from ractogateway.redis.transport.types import AsyncClient, is_cluster_client
from ractogateway.redis.transport.waking import Signal

T = TypeVar("T")

_BLOCKING_CALLS = 64
"""Blocking calls of each kind that may run in worker threads of one loop at a time, apart from anyio's own 40 for
everybody else.
"""

_TASKS = "_ractogateway_tasks"
"""Work of a loop that goes on without its caller."""

# Two, so that users' functions, which may take minutes, keep nobody from Redis.
_commands: RunVar[anyio.CapacityLimiter] = RunVar("ractogateway commands over blocking clients")
_functions: RunVar[anyio.CapacityLimiter] = RunVar("ractogateway blocking functions of users")


def running_loop() -> asyncio.AbstractEventLoop:
    """The running asyncio loop, or a clear error."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedEventLoopError(
            "the async classes need a running asyncio event loop (trio cannot run redis.asyncio); "
            "outside a loop use the blocking classes"
        ) from None


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _limiter(variable: RunVar[anyio.CapacityLimiter]) -> anyio.CapacityLimiter:
    """That of the running loop."""
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_BLOCKING_CALLS)
        variable.set(limiter)
        return limiter


async def _command_in_thread(function: Callable[[], T]) -> T:
    """Run a command over a blocking client. A cancelled caller leaves at once; the thread finishes what it began."""
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=_limiter(_commands))


async def _function_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a user's function. A cancelled caller leaves at once; the thread finishes what it began, and counts until
    then: callers that give up after a second do not heap up threads that hang for an hour.
    """
    begun = False

    def in_thread() -> T:
        nonlocal begun
        begun = True
        return function(*arguments)

    task = _held(running_loop(), anyio.to_thread.run_sync(in_thread, limiter=_limiter(_functions)))
    try:
        await asyncio.wait((task,))
    except BaseException:
        if not begun:
            task.cancel()
        raise
    return task.result()


def _held(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that goes on without its caller, in the context of that: what a user's function does belongs to it."""
    task = loop.create_task(work)
    # The loop itself keeps a weak reference only. On the loop, so that nothing keeps a loop alive.
    tasks: set[asyncio.Task[Any]] = loop.__dict__.setdefault(_TASKS, set())
    tasks.add(task)

    def ended(task: asyncio.Task[T]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; if nobody does, asyncio need not complain

    task.add_done_callback(ended)
    return task


class _AwaitingPort(Port):
    """What all ports of awaiting callers have in common."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def loop(self) -> asyncio.AbstractEventLoop:
        return running_loop()

    def every(self, interval_seconds: float, call: Call[bool]) -> Heartbeat:
        return LoopPacemaker.of(running_loop()).start(interval_seconds, lambda: self.run(call))

    async def wait(self, signal: Signal, seconds: float) -> bool:
        loop = running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and its tasks with it
                loop.call_soon_threadsafe(_resolve, woken)

        if not signal.add(wake):
            return True
        timer = loop.call_later(max(0.0, seconds), _resolve, woken)
        try:
            await woken
        finally:
            timer.cancel()
            signal.discard(wake)
        return signal.happened

    async def gather(self) -> None:
        await asyncio.sleep(0)

    async def lead(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        loop = running_loop()
        task = _held(loop, work)

        def end() -> None:
            # From any thread; and after the task's first step, without which none of its cleaning up would happen.
            with contextlib.suppress(RuntimeError):  # the loop was closed, and its tasks with it
                loop.call_soon_threadsafe(task.cancel)

        return end

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        _held(running_loop(), work)

    async def call_user(self, function: Callable[..., T | Awaitable[T]], *arguments: Any) -> T:
        if inspect.iscoroutinefunction(function):
            return cast("T", await function(*arguments))
        result: Any = await _function_in_thread(function, *arguments)
        value: T = await result if inspect.isawaitable(result) else result
        return value

    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:
        with anyio.move_on_after(seconds, shield=True):
            await work()

    async def aclose(self) -> None:
        return


class AsyncioPort(_AwaitingPort, RetryingPort):
    """Over the link of whatever loop is running: one object serves every loop of the process."""

    def __init__(self, endpoint: Endpoint, limits: TimeLimits, breaker: Breaker) -> None:
        super().__init__(limits, breaker)
        self._endpoint = endpoint
        self._closed = False
        endpoint.users.add(self)
        # The links that were used last, one for small replies and one for bulky ones: mostly they serve again. Weak,
        # because a link refers to its loop, and this object may outlive that.
        self._recent: list[Callable[[], Link | None]] = [_no_link, _no_link]

    @property
    def is_cluster(self) -> bool:
        return self._endpoint.address.is_cluster

    def _link(self, *, bulky: bool) -> Link:
        """Where commands go now."""
        loop, recent = running_loop(), self._recent[bulky]()
        if recent is not None and recent.loop is loop and not recent.closed:
            return recent
        if self._closed:
            self._closed = False
            self._endpoint.users.add(self)
        link = link_for(loop, self._endpoint, bulky=bulky)
        self._recent[bulky] = weakref.ref(link)
        return link

    async def aclose(self) -> None:
        self._closed = True
        self._recent = [_no_link, _no_link]
        self._endpoint.users.discard(self)
        if not self._endpoint.users:
            running_loop()
            await close_endpoint(self._endpoint)

    def _send(self, commands: Sequence[Command], *, bulky: bool, deadline: float | None = None) -> SentExchange:
        link = self._link(bulky=bulky)
        if deadline is None:
            limits = self._limits
            deadline = time.monotonic() + (limits.connected if link.connected else limits.connecting)
        exchange = _FutureExchange(commands, deadline, link.loop.create_future())
        link.submit(exchange)
        return exchange


def _no_link() -> None:
    """A reference that leads nowhere."""


class _FutureExchange(Exchange):
    __slots__ = ("ended", "granted")

    def __init__(self, commands: Sequence[Command], deadline: float, ended: asyncio.Future[None]) -> None:
        # As the base does; spelled out, for one is made with every command.
        self.commands, self.deadline, self.ended = commands, deadline, ended
        self.replies = [UNANSWERED] * len(commands)
        self.failure, self.sent, self.abandoned, self.granted = None, False, False, False

    def finish(self, failure: RactoGatewayError | None = None) -> None:
        self.failure = failure
        if not self.ended.done():
            self.ended.set_result(None)

    def grant(self, deadline: float) -> bool:
        if self.granted:
            return False
        self.granted, self.deadline = True, deadline
        return True

    def expire(self) -> None:
        if not self.ended.done():
            sent = self.abandon()
            self.failure = StoreTimeout("Redis did not answer in time", may_have_applied=sent)
            self.ended.set_result(None)


class AsyncClientPort(_AwaitingPort):
    """Over a redis.asyncio client that was given: its pool, its retries, its timeouts, its loop."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @property
    def is_cluster(self) -> bool:
        return is_cluster_client(self._client)

    async def run(self, call: Call[T]) -> T:
        running_loop()
        return await perform_with_client(self._execute, call)

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        running_loop()
        results = await asyncio.gather(*(self.run(call) for call in calls), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return list(results)

    async def _execute(self, command: Command) -> Any:
        return await self._client.execute_command(*as_words(command), NEVER_DECODE=True)


class WorkerThreadPort(_AwaitingPort):
    """Awaitable calls over a blocking client, each in a worker thread."""

    def __init__(self, port: ClientPort) -> None:
        self._port = port

    @property
    def is_cluster(self) -> bool:
        return self._port.is_cluster

    async def run(self, call: Call[T]) -> T:
        running_loop()
        return await _command_in_thread(lambda: drive(self._port.run(call)))

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        running_loop()
        return await _command_in_thread(lambda: drive(self._port.run_many(calls)))

    def every(self, interval_seconds: float, call: Call[bool]) -> Heartbeat:
        return self._port.every(interval_seconds, call)  # in the client's own thread: it waits for no worker
