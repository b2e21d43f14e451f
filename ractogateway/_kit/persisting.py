"""Work that has to be done, whatever becomes of the caller who waits for it: in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from anyio import CancelScope, move_on_after

__all__ = ["begin", "persist", "start"]

_running: set[asyncio.Task[None]] = set()  # a loop itself refers to its tasks weakly


def start(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> asyncio.Task[None]:
    """Begin work in a task of its own, for at most so long. It may be called a second time."""

    async def run() -> None:
        with move_on_after(seconds) as scope:
            try:
                await work()
            except asyncio.CancelledError:
                if scope.cancel_called:
                    raise
                await work()  # `asyncio.run` cancels all tasks that are left when it ends, once, and waits for them

    task = asyncio.get_running_loop().create_task(run())
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def begin(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> asyncio.Task[None]:
    """`start` work, and return when it has begun.

    A task that is cancelled together with all others (by `asyncio.run`, when it ends) before its first step never takes
    one. That who began it is cancelled then, too, is how it is known; and who is cancelled waits for the work.
    """
    has_begun = False

    async def noted() -> None:
        nonlocal has_begun
        has_begun = True
        await work()

    task = start(noted, seconds)
    try:
        await asyncio.sleep(0)  # its first step comes before our next
    except asyncio.CancelledError:
        if not has_begun:
            await persist(work, seconds)
        raise
    return task


async def persist(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """`start` work, and wait for its end.

    A task of its own, because a shielded scope keeps off other scopes only, and not who cancels the task; nor does it
    help a generator that is closed by a task which is cancelled before it began: Python 3.11 throws CancelledError into
    it first, and GeneratorExit into the middle of what it does thereupon.
    """
    task = start(work, seconds)
    interruption: BaseException | None = None
    tries = 1
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except (asyncio.CancelledError, GeneratorExit) as error:
                interruption = error
            if task.cancelled() and tries:  # together with all others, perhaps before it began
                tries -= 1
                task = start(work, seconds)
    if interruption is not None:
        if not task.cancelled():
            task.exception()  # seen, or the event loop would log that nobody did
        raise interruption
    task.result()
