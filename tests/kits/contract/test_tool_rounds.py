"""Rounds of tools in streams, and before a cache; and what a request with tools may hold."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from kit_wires import WEATHER, Person
from weather import ASK, Weather, config_of

from ractogateway import ChatConfig, ToolRegistry
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
)
from ractogateway.messages import FinishReason, LLMResponse, StreamChunk, ToolCall, Usage

# -- streams ----------------------------------------------------------------------------------------------------------


def chunks_of(kit: Any, config: ChatConfig, method: str) -> list[StreamChunk]:
    async def consume() -> list[StreamChunk]:
        return [chunk async for chunk in kit.astream(config)]

    return list(kit.stream(config)) if method == "stream" else asyncio.run(consume())


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_stream_tells_of_each_round(make, method):
    weather = Weather()
    chunks = chunks_of(make("think-tools"), config_of(weather), method)

    assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    ends = [index for index, chunk in enumerate(chunks) if chunk.response is not None]
    interim, last = (chunks[index] for index in ends)
    assert [call.name for call in interim.response.tool_calls] == ["get_weather"]
    assert interim.finish_reason is FinishReason.TOOL_CALLS
    assert "".join(chunk.thinking_delta for chunk in chunks[: ends[0]]) == interim.response.thinking
    assert "".join(chunk.delta for chunk in chunks[ends[0] :]) == chunks[-2].text == last.text == last.response.content
    assert len(last.response.following) == 2
    assert last.response.usage.total_tokens > interim.response.usage.total_tokens


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_the_reader_of_a_stream_sees_the_calls_before_they_run(make, method):
    weather = Weather()
    kit = make()

    async def consume() -> None:
        async for chunk in kit.astream(config_of(weather)):
            check(chunk)

    def check(chunk: StreamChunk) -> None:
        if chunk.response is not None and not chunk.is_final:
            assert weather.asked == []
            chunk.response.tool_calls.clear()  # which is the reader's own
            seen.append(chunk)

    seen: list[StreamChunk] = []
    if method == "stream":
        for chunk in kit.stream(config_of(weather)):
            check(chunk)
    else:
        asyncio.run(consume())
    assert (len(seen), len(weather.asked)) == (1, 1)


def test_leaving_a_stream_between_rounds_runs_nothing(make, endpoint, eventually):
    weather = Weather()
    kit = make()

    async def leave() -> None:
        stream = kit.astream(config_of(weather))
        async for chunk in stream:
            if chunk.response is not None:
                break
        await stream.aclose()

    stream = kit.stream(config_of(weather))
    next(chunk for chunk in stream if chunk.response is not None)
    stream.close()
    asyncio.run(leave())
    assert (weather.asked, endpoint.requests) == ([], 2)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_answers_are_kept_for_each_round_and_tools_always_run(ask, make, endpoint):
    weather = Weather()
    kit = make(exact_cache=ExactMatchCache())
    first, second = ask(kit, config_of(weather)), ask(kit, config_of(weather))

    assert endpoint.requests == 2
    assert len(weather.asked) == 2
    assert (first.cached, second.cached) == (False, True)
    assert (second.content, second.following) == (first.content, first.following)
    assert (second.usage, second.saved_usage) == (Usage(), first.usage)

    weather.answer = "sun"
    third = ask(kit, config_of(weather))
    assert endpoint.requests == 3, "the same question, and another answer to the second"
    assert third.content != first.content
    assert not third.cached
    assert third.saved_usage.total_tokens > 0 < third.usage.total_tokens


def test_the_calls_of_a_cached_answer_keep_what_was_signed(asks, make):
    kit = make("think-tools", exact_cache=ExactMatchCache())
    weather = Weather()
    for ask in asks.values():
        assert ask(kit, config_of(weather)).content
    assert len(weather.asked) == 4


def test_a_tool_is_known_by_its_definition(asks, make, endpoint):
    kit = make(exact_cache=ExactMatchCache())
    one, same, other = Weather(), Weather(), ToolRegistry()

    @other.tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return "rain"

    other.register(one.get_time)
    plain = config_of(one, rounds=0)
    cached = [
        asks["chat"](kit, config).cached
        for config in (
            plain,
            config_of(same, rounds=0),
            config_of(one, rounds=0).model_copy(update={"tools": one.tools.definitions}),
            ChatConfig(user_message=ASK, tools=other),
        )
    ]
    assert cached == [False, True, True, False], "a parameter of the last has no description"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
def test_names_that_are_none_are_nobodys(make, endpoint):
    odd = [{"type": "function", "function": {"name": {}}}, {"name": []}, {"type": "x"}, {"type": "x"}]
    config = ChatConfig(user_message="Hello", tools=[*odd, Weather().tools], tool_rounds=1)
    with pytest.raises(InvalidValueError, match="needs a name"):
        make().chat(config)
    assert endpoint.requests == 0


def test_two_tools_of_one_name_are_refused_before_anything_is_sent(ask, make, endpoint):
    weather = Weather()
    for tools in ([weather.tools, WEATHER], [WEATHER, weather.tools], [weather.tools, Weather().tools]):
        with pytest.raises(InvalidValueError, match="two tools of the name get_weather"):
            ask(make(), ChatConfig(user_message=ASK, tools=tools))
    with pytest.raises(InvalidTypeError):
        ask(make(), config_of(weather).model_copy(update={"tools": [7]}))
    assert endpoint.requests == 0


def test_what_is_changed_while_a_call_is_under_way_does_not_reach_it(make):
    weather = Weather()

    @weather.tools.tool
    def change(city: str) -> str:
        config.following.append({"role": "user", "content": "CANARY"})
        weather.tools.register(lambda: 1, name="later")
        return "changed"

    config = config_of(weather, "Use change", following=[])
    answer = make().chat(config)
    assert "CANARY" not in json.dumps(answer.following)
    assert answer.content


def test_structured_output_comes_after_the_tools(ask, make):
    answer = ask(make(), config_of(Weather(), response_model=Person))
    assert isinstance(answer.parsed, Person)
    assert len(answer.following) == 2


def test_a_value_of_a_call_is_never_in_a_repr():
    call = ToolCall(id="c1", name="f", arguments={"a": "CANARY"}, provider_fields={"x": "CANARY"})
    answer = LLMResponse(
        tool_calls=[call], following=[{"role": "user", "x": "CANARY"}], provider_fields={"a": "CANARY"}
    )
    assert "CANARY" not in f"{call!r} {answer!r} {ChatConfig(user_message='q', following=answer.messages)!r}"


def test_time_passes_while_a_tool_runs(make):
    """A blocking tool does not hold up the loop that awaits it."""
    tools, ticks = ToolRegistry(), []
    started, enough = threading.Event(), threading.Event()

    @tools.tool
    def get_weather(city: str) -> bool:
        started.set()
        return enough.wait(20)

    async def tick() -> None:
        while len(ticks) < 20:
            await asyncio.sleep(0.001)
            if started.is_set():
                ticks.append(time.monotonic())
        enough.set()

    async def main() -> LLMResponse:
        ticking = asyncio.create_task(tick())
        answer = await make().achat(ChatConfig(user_message=ASK, tools=tools, tool_rounds=1))
        await ticking
        return answer

    assert asyncio.run(main()).following[-1]["content"] == "true"
