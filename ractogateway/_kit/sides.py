"""The two kinds of callers. The order around a call is one coroutine for both: what it awaits is its side.

What a `BlockingSide` gives to await never suspends, so that `drive` runs the coroutine to its end in the calling
thread. An `AsyncSide` never blocks the loop it is awaited in.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from ractogateway._driving import drive
from ractogateway._kit.clients import Clients, is_ending
from ractogateway._kit.given import Given
from ractogateway._kit.persisting import begin, persist
from ractogateway._kit.provider import Provider
from ractogateway._kit.running import run_here, run_together
from ractogateway.messages import ToolCall
from ractogateway.tools import Tool

__all__ = ["END", "AsyncSide", "BlockingSide", "Join", "Side"]

T = TypeVar("T")

Join = Callable[[], Awaitable[None]]

END: Any = object()
"""What comes after the last event of a stream."""

_LONGEST_SECONDS = 60.0
"""For work that nobody holds up; each call inside has its own time limit."""

_LONGEST_WAIT_SECONDS = 5.0
"""How long an answer is held back for work that goes on by itself; the time limit of a tool is a second, or less."""

_THREADS = 32
# Not anyio's own limiter: a tool that hangs must not use up the threads in which the application serves requests.
_limiter: RunVar[CapacityLimiter] = RunVar("ractogateway kit threads")


class Side(ABC):
    """What the order around a call may await."""

    def __init__(self, provider: Provider, clients: Clients[Any, Any]) -> None:
        self._provider = provider
        self._clients = clients

    # -- the provider --------------------------------------------------------------------------------------------------

    @abstractmethod
    async def client(self) -> Any:
        """The SDK's client of this caller."""

    @abstractmethod
    async def send(self, client: Any, arguments: dict[str, Any]) -> Any:
        """Ask for a whole answer; the SDK's object."""

    @abstractmethod
    async def open(self, client: Any, arguments: dict[str, Any]) -> Any:
        """Ask for a stream; what `next_event` and `hang_up` take."""

    @abstractmethod
    async def next_event(self, source: Any) -> Any:
        """The next event of a stream, `END` after the last."""

    @abstractmethod
    async def hang_up(self, source: Any, *, seconds: float) -> None:
        """Close a stream, also for a caller who was cancelled."""

    # -- tools ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def target(self, given: Given) -> Any:
        """The form of a tool whose methods this side calls; None where they run in threads."""

    @abstractmethod
    async def call(self, given: Given, method: str, *arguments: Any, of: object = None, **named: Any) -> Any:
        """Call a method of a tool, or of an object ``of`` that such a call has returned."""

    @abstractmethod
    async def acquire(self, given: Given, method: str, *arguments: Any, undo: str) -> Any:
        """`call` a method whose result, should its caller be gone by then, has a method ``undo`` to be called."""

    @abstractmethod
    def function(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Any]:
        """``work`` as a function that a tool of this side can call: a blocking one, or a coroutine function."""

    # -- users' functions, and the end ---------------------------------------------------------------------------------

    @abstractmethod
    async def run_tools(self, calls: Sequence[tuple[Tool, ToolCall]]) -> list[str]:
        """Run tools for a model; what it is told of each, in their order."""

    @abstractmethod
    async def compute(self, function: Callable[[], T]) -> T:
        """Call a function of ours that keeps the processor busy."""

    @abstractmethod
    async def pause(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which the caller waits; None for one that blocks, whatever runs around it."""

    @abstractmethod
    async def finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what has to be done before the caller goes on, whoever cancels it."""

    @abstractmethod
    async def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Join:
        """Begin work that goes on by itself; what is returned waits for its end, for some seconds at most."""

    @abstractmethod
    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:
        """Run ``work`` for at most ``seconds``, also for a caller who was cancelled; a second time, if need be.

        Not in a loop that is about to end: its clients are being closed, those of the tools, too.
        """


class BlockingSide(Side):
    """Callers of ``chat`` and ``stream``: everything happens in their thread."""

    async def client(self) -> Any:
        return self._clients.blocking()

    async def send(self, client: Any, arguments: dict[str, Any]) -> Any:
        return self._provider.send(client, arguments)

    async def open(self, client: Any, arguments: dict[str, Any]) -> Any:
        return self._provider.open(client, arguments)

    async def next_event(self, source: Any) -> Any:
        return next(source, END)

    async def hang_up(self, source: Any, *, seconds: float) -> None:  # noqa: ARG002 - closing a socket does not wait
        source.close()

    def target(self, given: Given) -> Any:
        return given.face

    async def call(self, given: Given, method: str, *arguments: Any, of: object = None, **named: Any) -> Any:
        return getattr(given.face if of is None else of, method)(*arguments, **named)

    async def acquire(self, given: Given, method: str, *arguments: Any, undo: str) -> Any:  # noqa: ARG002
        return getattr(given.face, method)(*arguments)  # whoever is interrupted here never had it

    def function(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Any]:
        return lambda: drive(work())

    async def run_tools(self, calls: Sequence[tuple[Tool, ToolCall]]) -> list[str]:
        return run_here(calls)

    async def compute(self, function: Callable[[], T]) -> T:
        return function()

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - it is driven, in a thread that may block

    def loop(self) -> None:
        return None

    async def finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await work()

    async def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Join:
        await work()
        return _at_once

    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:  # noqa: ARG002
        # Nothing can cancel a driven coroutine, and each call inside has its own time limit.
        await work()


class AsyncSide(Side):
    """Callers of ``achat`` and ``astream``: in their event loop, with the SDK's client of that loop."""

    async def client(self) -> Any:
        return await self._clients.of_this_loop()

    async def send(self, client: Any, arguments: dict[str, Any]) -> Any:
        return await self._provider.asend(client, arguments)

    async def open(self, client: Any, arguments: dict[str, Any]) -> Any:
        return await self._provider.aopen(client, arguments)

    async def next_event(self, source: Any) -> Any:
        return await anext(source, END)

    async def hang_up(self, source: Any, *, seconds: float) -> None:
        await self.cleanup(source.aclose, seconds=seconds)

    def target(self, given: Given) -> Any:
        return given.core

    async def call(self, given: Given, method: str, *arguments: Any, of: object = None, **named: Any) -> Any:
        core = given.core
        if core is not None:
            return await getattr(core if of is None else of, method)(*arguments, **named)
        # Abandoned on cancel: a caller that gave up does not wait for a slow tool, whose thread ends by itself.
        result = await _in_thread(partial(getattr(given.face if of is None else of, method), *arguments, **named))
        return await result if inspect.isawaitable(result) else result  # a coroutine function in disguise

    async def acquire(self, given: Given, method: str, *arguments: Any, undo: str) -> Any:
        if given.core is not None:  # which undoes it by itself
            return await getattr(given.core, method)(*arguments)
        return await _in_thread_or_undone(partial(getattr(given.face, method), *arguments), undo)

    def function(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], Any]:
        async def called() -> T:  # a plain function of its own: tools tell by its kind that it is to be awaited
            return await work()

        return called

    async def run_tools(self, calls: Sequence[tuple[Tool, ToolCall]]) -> list[str]:
        return await run_together(calls)

    async def compute(self, function: Callable[[], T]) -> T:
        return await _in_thread(function)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await persist(work, _LONGEST_SECONDS)

    async def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Join:
        return partial(_ended, await begin(work, _LONGEST_SECONDS))

    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:
        if not is_ending(asyncio.get_running_loop()):
            await persist(work, seconds)


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task, but not for one that hangs: it goes on without its caller."""
    await asyncio.wait((task,), timeout=_LONGEST_WAIT_SECONDS)
    if task.done() and not task.cancelled():
        task.result()


async def _at_once() -> None:
    """The work is done when its caller gets here."""


async def _in_thread(call: Callable[[], T]) -> T:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await run_sync(call, limiter=limiter, abandon_on_cancel=True)


async def _in_thread_or_undone(call: Callable[[], Any], undo: str) -> Any:
    """Call in a thread, whose result is undone there if nobody waits for it any more."""
    lock, results, is_left = threading.Lock(), [], False

    def in_thread() -> Any:
        result = call()
        with lock:
            results.append(result)
            undone = is_left
        if undone:
            getattr(result, undo)()
        return result

    try:
        return await _in_thread(in_thread)
    except BaseException:
        with lock:
            is_left, came = True, list(results)
        for result in came:  # it came at the very moment at which its caller left
            await persist(partial(_in_thread, getattr(result, undo)), _LONGEST_SECONDS)
        raise
