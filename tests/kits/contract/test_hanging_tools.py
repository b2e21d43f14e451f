"""A tool that hangs holds up no call of a kit for longer than its registry allows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from weather import ASK

from ractogateway import ChatConfig, ToolRegistry, _leaving
from ractogateway.errors import ToolTimeout

LATE = "Error: the tool did not answer within 0.05 s"

only_openai = pytest.mark.parametrize("wire", ["openai"], indirect=True)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    release = threading.Event()
    yield release
    release.set()
    deadline = time.monotonic() + 30
    while _leaving._left.count:
        assert time.monotonic() < deadline, "a thread that was left has not ended"
        time.sleep(0.002)


def config(get_weather: Callable[..., Any], **options: Any) -> ChatConfig:
    tools = ToolRegistry(tool_timeout_seconds=0.05, **options)
    tools.register(get_weather, name="get_weather")
    return ChatConfig(user_message=ASK, tools=tools, tool_rounds=2)


def test_the_model_is_told_and_answers(ask, make, hanging):
    def get_weather(city: str) -> str:
        hanging.wait()
        return city

    answer = ask(make(), config(get_weather))
    assert answer.following[-1]["content"] == LATE
    assert answer.content


@only_openai
def test_a_coroutine_function_is_cancelled(ask, make):
    ends = []

    async def get_weather(city: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(city)

    assert ask(make(), config(get_weather)).following[-1]["content"] == LATE
    assert len(ends) == 1
    with pytest.raises(ToolTimeout):
        ask(make(), config(get_weather, on_error="raise"))


@only_openai
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_what_an_event_loop_waits_for_holds_up_no_blocking_caller(asks, make, hanging, method):
    async def blocks_its_loop(city: str) -> None:
        hanging.wait()

    async def leaves_a_thread(city: str) -> None:
        await asyncio.to_thread(hanging.wait)  # `asyncio.run` waits for its end

    told = []
    for function in (blocks_its_loop, leaves_a_thread):
        answer = asks[method](make(), config(function, on_error=lambda _, error: told.append(error) or "late"))
        assert answer.following[-1]["content"] == "late"
    assert {str(error) for error in told} == {LATE.removeprefix("Error: ")}


@only_openai
def test_a_coroutine_function_that_is_not_begun(asks, make, monkeypatch):
    async def get_weather(city: str) -> str:
        return city

    monkeypatch.setattr(_leaving, "MOST_LEFT", 0)
    answer = asks["chat"](make(), config(get_weather))
    assert answer.following[-1]["content"].startswith("Error: the tool was not begun")
    assert asks["achat"](make(), config(get_weather)).following[-1]["content"] not in (LATE, "")
