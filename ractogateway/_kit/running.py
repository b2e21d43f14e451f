"""Tools that a model asked for, run: in the thread of a blocking caller, or in the event loop of an async one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from anyio import create_task_group

from ractogateway._leaving import call_in_thread, call_within
from ractogateway._pending import Pending
from ractogateway.errors import ToolTimeout
from ractogateway.messages import ToolCall
from ractogateway.tools import Tool, failed

__all__ = ["run_here", "run_together"]

_GRACE_SECONDS = 0.1
"""How long a tool whose time is up may take to end by itself."""


def run_here(calls: Sequence[tuple[Tool, ToolCall]]) -> list[str]:
    """One after the other, in this thread; an async one in an event loop of its own, which this thread waits for."""
    told = (tool.run(call) for tool, call in calls)
    return [each if isinstance(each, str) else _wait_for(each) for each in told]


async def run_together(calls: Sequence[tuple[Tool, ToolCall]]) -> list[str]:
    """All at once: async ones in this loop, others in threads. An error of one ends the others, and is raised."""
    told: dict[int, str] = {}
    errors: dict[int, Exception] = {}

    async def run(place: int, tool: Tool, call: ToolCall) -> None:
        try:
            told[place] = await tool.arun(call)
        except Exception as error:  # noqa: BLE001 - raised below: a group of errors would be a type nobody expects
            errors[place] = error
            group.cancel_scope.cancel()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this one: something that the tool waited for was.
            told[place] = failed(error)

    async with create_task_group() as group:
        for place, (tool, call) in enumerate(calls):
            group.start_soon(run, place, tool, call)
    if errors:
        raise errors[min(errors)]
    return [told[place] for place in range(len(calls))]


def _wait_for(told: Pending) -> str:
    """Await in a thread of its own: in this one a loop may be running, or one may be set that is not to be replaced."""
    ended: list[str | Exception] = []

    async def main() -> None:
        try:
            ended.append(await told.outcome())
        except asyncio.CancelledError as error:
            # As in `run_together`: nobody cancels this task, something that the tool awaited was.
            ended.append(failed(error))

    try:
        if told.seconds is None:
            call_in_thread(lambda: asyncio.run(main()))
        else:
            call_within(told.seconds, lambda: asyncio.run(main()), grace_seconds=_GRACE_SECONDS)
    except ToolTimeout as error:
        # It blocks its loop, where nothing cancels it; or it has ended, and the loop waits for what it left behind.
        told.close()
        found = ended[0] if ended else error
    else:
        found = ended[0]
    # Here, not in that thread: if it is left behind, nobody is told any more of how its call ended.
    return found if isinstance(found, str) else told.told(found)
