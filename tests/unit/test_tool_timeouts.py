"""Tools that hang: what the model is told, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ractogateway import ToolRegistry, _leaving
from ractogateway._kit.running import run_here as run_for_a_kit
from ractogateway.errors import InvalidTypeError, InvalidValueError, ToolError, ToolTimeout
from ractogateway.messages import ToolCall

SHORT, LONG = 0.02, 60.0
LATE = f"Error: the tool did not answer within {SHORT} s"
CALL = ToolCall(id="c1", name="tool")

Run = Callable[[ToolRegistry], str]


def run_here(tools: ToolRegistry) -> str:
    return tools.call(CALL)["content"]


def run_in_a_loop(tools: ToolRegistry) -> str:
    return asyncio.run(tools.acall(CALL))["content"]


both = pytest.mark.parametrize("run", [run_here, run_in_a_loop])


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What hangs waits for this; at the end of a test nothing hangs any more."""
    release = threading.Event()
    yield release
    release.set()
    all_ended()


def registry(function: Callable[..., Any], seconds: float | None = SHORT, **options: Any) -> ToolRegistry:
    tools = ToolRegistry(tool_timeout_seconds=seconds, **options)
    tools.register(function, name="tool")
    return tools


@both
def test_a_model_is_told_of_a_tool_that_hangs(run: Run, hanging):
    ended = []

    def tool() -> None:
        hanging.wait()
        ended.append(threading.current_thread())

    assert run(registry(tool)) == LATE
    assert ended == []  # it was left behind, and goes on
    hanging.set()
    while not ended:
        time.sleep(0.002)
    assert ended[0].daemon  # nor does it hold up the end of the process


@both
def test_what_hangs_while_its_result_is_read_hangs_too(run: Run, hanging):
    def tool() -> Any:
        yield 1
        hanging.wait()

    assert run(registry(tool)) == LATE


def test_a_coroutine_function_is_cancelled():
    ends = []

    async def tool() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up is not cancelled again
            ends.append(asyncio.current_task().cancelling())

    assert run_in_a_loop(registry(tool)) == LATE
    assert ends == [1]


def test_a_coroutine_function_may_catch_its_cancellation():
    async def tool() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "what there is so far"

    assert run_in_a_loop(registry(tool)) == "what there is so far"


@pytest.mark.parametrize(("run", "is_async"), [(run_here, False), (run_in_a_loop, False), (run_in_a_loop, True)])
def test_a_time_limit_is_the_registrys_to_judge(run: Run, is_async, hanging):
    def blocking() -> None:
        hanging.wait()

    async def awaited() -> None:
        await asyncio.Event().wait()

    tool = awaited if is_async else blocking
    with pytest.raises(ToolTimeout, match=r"within 0\.02 s"):
        run(registry(tool, on_error="raise"))
    told = []
    assert run(registry(tool, on_error=lambda *seen: told.append(seen) or "Try later")) == "Try later"
    assert [(call, type(error)) for call, error in told] == [(CALL, ToolTimeout)]
    assert isinstance(told[0][1], TimeoutError)


def all_ended() -> None:
    deadline = time.monotonic() + 30
    while _leaving._left.count:
        assert time.monotonic() < deadline, "a thread that was left has not ended"
        time.sleep(0.002)


def told_late(seen: list[Exception]) -> bool:
    return [str(error) for error in seen] == [LATE.removeprefix("Error: ")]


@both
def test_of_a_tool_that_fails_after_its_time_nobody_is_told_again(run: Run, hanging):
    def tool() -> None:
        hanging.wait()
        raise ValueError("CANARY")

    seen = []
    assert run(registry(tool, on_error=lambda _, error: seen.append(error) or "late")) == "late"
    hanging.set()
    all_ended()
    assert told_late(seen)


def for_a_kit(tools: ToolRegistry) -> str:
    (tool,) = tools
    return run_for_a_kit([(tool, CALL)])[0]


def test_nor_of_a_coroutine_that_a_blocking_caller_left_behind(hanging):
    async def tool() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(hanging.wait)

    seen = []
    assert for_a_kit(registry(tool, on_error=lambda _, error: seen.append(error) or "late")) == "late"
    hanging.set()
    all_ended()
    assert told_late(seen)


def test_a_coroutine_whose_time_is_up_before_it_begins_never_begins(hanging, monkeypatch):
    begun, seen, ends, run = [], [], [], asyncio.run

    async def tool() -> None:
        begun.append(1)

    def run_late(main: Any) -> None:
        hanging.wait()
        ends.append(run(main))

    monkeypatch.setattr(asyncio, "run", run_late)
    assert for_a_kit(registry(tool, on_error=lambda _, error: seen.append(error) or "late")) == "late"
    hanging.set()
    all_ended()
    assert (begun, ends) == ([], [None])  # and nothing broke in that thread
    assert told_late(seen)


@pytest.mark.parametrize("run", [run_here, run_in_a_loop, for_a_kit])
def test_of_a_tool_that_fails_in_time_somebody_is_told_once(run: Run):
    def tool() -> None:
        raise ValueError("CANARY")

    seen = []
    assert run(registry(tool, LONG, on_error=lambda _, error: seen.append(error) or "failed")) == "failed"
    assert [type(error) for error in seen] == [ValueError]


@both
def test_what_ends_in_time_is_as_without_a_limit(run: Run):
    place = contextvars.ContextVar("place")
    place.set("here")
    assert run(registry(lambda: place.get(), LONG)) == "here"
    assert run(registry(lambda: {"a": [1]}, LONG)) == '{"a":[1]}'
    errors = [TimeoutError("CANARY"), ToolError("No such city"), StopIteration("CANARY"), SystemExit(3)]

    def tool() -> None:
        raise errors[0]

    assert run(registry(tool, LONG)) == "Error: the tool failed (TimeoutError)"  # its own
    with pytest.raises(TimeoutError, match="CANARY") as caught:
        run(registry(tool, LONG, on_error="raise"))
    assert not isinstance(caught.value, ToolTimeout)
    del errors[0]
    assert run(registry(tool, LONG, on_error="raise")) == "Error: No such city"
    del errors[0]
    assert run(registry(tool, LONG)) == "Error: the tool failed (StopIteration)"
    del errors[0]
    with pytest.raises(SystemExit):
        run(registry(tool, LONG))


def test_its_own_timeout_is_not_taken_for_the_limit():
    async def tool() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    assert run_in_a_loop(registry(tool, LONG)) == "Error: the tool failed (TimeoutError)"


def test_a_caller_who_is_cancelled_does_not_wait(hanging):
    begun = threading.Event()

    def tool() -> None:
        begun.set()
        hanging.wait()

    async def main() -> None:
        task = asyncio.create_task(registry(tool, LONG).acall(CALL))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@both
def test_what_hangs_uses_up_no_more_threads_than_that(run: Run, hanging, monkeypatch):
    monkeypatch.setattr(_leaving, "MOST_LEFT", 2)
    begun = []

    def tool() -> None:
        begun.append(1)
        hanging.wait()

    for _ in range(2):
        assert run(registry(tool)) == LATE
    told = "Error: the tool was not begun: 2 calls that were given up are still running"
    assert run(registry(tool)) == told
    assert len(begun) == 2
    hanging.set()
    while _leaving._left.count:
        time.sleep(0.002)
    assert run(registry(tool, LONG)) == "null"


def test_a_child_begins_without_the_threads_of_its_parent(hanging):
    assert run_here(registry(lambda: hanging.wait())) == LATE
    assert _leaving._left.count == 1
    child = _leaving._Left()
    child.count = 1
    child.renew_after_fork()
    assert child.count == 0


_HANGS = """
import threading
from ractogateway import ToolRegistry
from ractogateway.messages import ToolCall
tools = ToolRegistry(tool_timeout_seconds=0.02)
tools.register(lambda: threading.Event().wait(), name="tool")
print(tools.call(ToolCall(id="c", name="tool"))["content"])
"""


def test_a_process_ends_whatever_hangs():
    ended = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == LATE


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1", True, 1e9])
def test_limits_that_are_none(bad):
    with pytest.raises((InvalidTypeError, InvalidValueError), match="tool_timeout_seconds"):
        ToolRegistry(tool_timeout_seconds=bad)
