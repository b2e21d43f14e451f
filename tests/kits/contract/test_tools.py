"""Tools that a kit runs by itself: the same for every provider, in whole answers and in streams."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from typing import Any

import pytest
from kit_wires import WEATHER
from weather import ASK, Weather, config_of, failing, sent

from ractogateway import ChatConfig, ToolRegistry
from ractogateway import openai_developer_kit as gpt
from ractogateway.errors import (
    ProviderRateLimited,
    ProviderRequestRejected,
    ToolError,
)
from ractogateway.messages import FinishReason, LLMResponse


def test_tools_run_until_the_model_answers(ask, make, endpoint):
    weather = Weather()
    answer = ask(make(), config_of(weather))

    assert (answer.finish_reason, answer.tool_calls) == (FinishReason.STOP, [])
    assert answer.content.endswith(".")
    assert len(weather.asked) == 1
    calls, result = answer.following
    (call,) = calls["tool_calls"]
    assert (call["function"]["name"], calls["role"]) == ("get_weather", "assistant")
    assert weather.asked == [f"get_weather {json.loads(call['function']['arguments'])['city']}"]
    assert result == {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
    assert endpoint.requests == 2
    first, second = sent(endpoint)
    assert "rain" in second
    assert "rain" not in first
    assert "The weather of a city." in first


def test_calls_of_one_round_keep_their_order(ask, make, endpoint):
    weather = Weather()
    answer = ask(make("twice"), config_of(weather, "Use get_time and get_weather"))

    calls, *results, again, third, fourth = answer.following
    names = [call["function"]["name"] for call in calls["tool_calls"]]
    assert names == ["get_weather", "get_time"] == [call["function"]["name"] for call in again["tool_calls"]]
    assert [each["tool_call_id"] for each in results] == [call["id"] for call in calls["tool_calls"]]
    assert [each["content"] for each in (*results, third, fourth)] == ["rain", '{"time":"noon"}'] * 2
    assert sorted(each.partition(" ")[0] for each in weather.asked) == ["get_time"] * 2 + ["get_weather"] * 2
    assert endpoint.requests == 3


def test_what_all_rounds_cost_is_told_together(ask, make, endpoint):
    weather = Weather()
    kit = make("think-tools")
    answer = ask(kit, config_of(weather))
    singly = [ask(kit, config_of(weather, rounds=0))]
    results = [asyncio.run(weather.tools.acall(call)) for call in singly[0].tool_calls]
    singly.append(ask(kit, config_of(weather, rounds=0, following=[*singly[0].messages, *results])))

    assert answer.content == singly[1].content
    assert answer.usage == singly[0].usage + singly[1].usage
    assert min(answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.reasoning_tokens) > 0
    # By hand and by the kit, the same is sent.
    requests = sent(endpoint)
    assert requests[:2] == requests[2:]


def test_what_a_provider_signed_goes_back_to_it(ask, make, wire, endpoint):
    """The stand-ins refuse calls that come back without the thought that was signed."""
    weather = Weather()
    kit = make("think-tools")
    config = config_of(weather, "Use get_time and get_weather")
    answer = ask(kit, config)
    assert answer.content
    calls = answer.following[0]
    if wire.cached:  # a stand-in that signs
        told = json.dumps(calls)
        assert "c2lnbmVk" in told
        for place in ("thinking_blocks", "extra_content"):
            told = told.replace(place, "elsewhere")
        lost = {"following": [json.loads(told), *answer.following[1:]], "tool_rounds": 0}
        with pytest.raises(ProviderRequestRejected, match="400"):
            ask(kit, config.model_copy(update=lost))


def test_what_one_provider_signed_is_nothing_to_another(asks, make, wire, endpoint):
    google = {"google": {"thought_signature": "c2lnbmVk"}}
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    thoughts = [{"type": "thinking", "thinking": "Hm.", "signature": "CANARY"}]
    said = {"role": "assistant", "content": None, "tool_calls": [{**call, "extra_content": google}]}
    following = [{**said, "thinking_blocks": thoughts}, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    asks["chat"](make(), ChatConfig(user_message=ASK, tools=[WEATHER], following=following))
    body = sent(endpoint)[-1]
    assert ("CANARY" in body) == (wire.kit.__name__ != "GoogleDeveloperKit")
    assert ("c2lnbmVk" in body) == (wire.kit.__name__ != "AnthropicDeveloperKit")


def test_openai_itself_is_not_shown_fields_it_does_not_know():
    google = {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [{**call, **google}], "thinking_blocks": [{}], **google}
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    config = ChatConfig(user_message="q", history=[said, result], following=[said, result])

    def messages(base_url: str) -> list[dict[str, Any]]:
        kit = gpt.OpenAIDeveloperKit("m", api_key="k", base_url=base_url)
        return kit._preparation.arguments(kit._prepare(config), stream=False)["messages"]

    plain = {"role": "assistant", "content": None, "tool_calls": [call]}
    question = {"role": "user", "content": "q"}
    assert messages("https://api.openai.com/v1") == [plain, result, question, plain, result]
    # A server in front of several providers needs them.
    assert messages("http://localhost:4000/v1") == [said, result, question, said, result]


def test_the_bound_hands_out_the_last_answer_with_its_calls(ask, make, endpoint):
    weather = Weather()
    answer = ask(make("keep-calling"), config_of(weather, rounds=2))

    assert endpoint.requests == 3
    assert len(weather.asked) == 2
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert [call.name for call in answer.tool_calls] == ["get_weather"]
    assert [each["role"] for each in answer.messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    # And the caller may go on from there.
    results = [weather.tools.call(call) for call in answer.tool_calls]
    update = {"following": [*answer.messages, *results], "tool_rounds": 1}
    assert ask(make(), config_of(weather).model_copy(update=update)).content


def test_of_an_answer_that_was_cut_off_no_call_is_run(ask, make, endpoint):
    weather = Weather()
    answer = ask(make("cut-calls"), config_of(weather))
    assert (answer.finish_reason, len(answer.tool_calls)) == (FinishReason.LENGTH, 1)
    assert (weather.asked, endpoint.requests) == ([], 1)


def test_without_rounds_the_calls_are_the_callers(ask, make, endpoint):
    weather = Weather()
    answer = ask(make(), config_of(weather, rounds=0))
    assert ([call.name for call in answer.tool_calls], answer.following, weather.asked) == (["get_weather"], [], [])
    assert endpoint.requests == 1


def test_a_tool_that_only_a_definition_names_is_the_callers(ask, make, endpoint):
    weather = Weather()
    other = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    config = config_of(weather, "Use get_weather and look_up").model_copy(update={"tools": [weather.tools, other]})
    answer = ask(make(), config)
    assert [call.name for call in answer.tool_calls] == ["get_weather", "look_up"]
    assert (weather.asked, endpoint.requests) == ([], 1)


def test_a_tool_that_fails_or_is_not_there_is_told_to_the_model(ask, make, endpoint):
    for model, tools, told in (
        ("unknown-tool", Weather().tools, "Error: there is no tool no_such_tool"),
        ("stand-in", failing(ValueError("CANARY")), "Error: the tool failed (ValueError)"),
        ("stand-in", failing(ToolError("try Rome")), "Error: try Rome"),
    ):
        answer = ask(make(model), ChatConfig(user_message=ASK, tools=tools, tool_rounds=1))
        assert answer.following[-1]["content"] == told
        assert answer.content
        assert json.dumps(told) in sent(endpoint)[-1]
        assert "CANARY" not in sent(endpoint)[-1]


def test_a_tools_error_is_raised_where_that_is_wanted(ask, make, endpoint):
    tools = failing(ZeroDivisionError("mine"), on_error="raise")
    tools.register(Weather().get_time)
    config = ChatConfig(user_message="Use get_weather and get_time", tools=tools, tool_rounds=1)
    with pytest.raises(ZeroDivisionError, match="mine"):
        ask(make(), config)
    assert endpoint.requests == 1


def test_a_provider_that_fails_in_a_later_round_fails_the_call(ask, make, wire, endpoint):
    weather = Weather()
    kit = make()

    @weather.tools.tool
    def spoil(city: str) -> str:
        kit._preparation.model = "error-429"
        return "x"

    with pytest.raises(ProviderRateLimited):
        ask(kit, config_of(weather, "Use spoil"))
    assert endpoint.requests == 2


def test_blocking_tools_run_together_in_threads(make):
    tools, meeting = ToolRegistry(), threading.Barrier(2, timeout=20)

    @tools.tool
    def get_weather(city: str) -> str:
        meeting.wait()
        return str(threading.get_ident())

    @tools.tool
    def get_time(city: str) -> str:
        meeting.wait()
        return str(threading.get_ident())

    async def main() -> LLMResponse:
        return await make().achat(ChatConfig(user_message="Use get_weather and get_time", tools=tools, tool_rounds=1))

    threads = {each["content"] for each in asyncio.run(main()).following[1:]}
    assert len(threads) == 2
    assert str(threading.get_ident()) not in threads


def test_async_tools_run_in_the_callers_loop_or_in_one_of_their_own(asks, make):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    tools, seen = ToolRegistry(), []

    @tools.tool
    async def get_weather(city: str) -> str:
        seen.append((asyncio.get_running_loop(), threading.current_thread(), variable.get()))
        return "rain"

    config = ChatConfig(user_message=ASK, tools=tools, tool_rounds=1)
    variable.set("here")

    async def main() -> asyncio.AbstractEventLoop:
        await make().achat(config)
        with pytest.warns(Warning, match="stops the event loop"):
            make().chat(config)
        return asyncio.get_running_loop()

    asks["chat"](make(), config)
    loop = asyncio.run(main())
    assert seen[0][1] is not threading.current_thread()
    assert seen[1][:2] == (loop, threading.current_thread())
    assert seen[2][0] not in (seen[0][0], loop)
    assert [each[2] for each in seen] == ["here"] * 3


def test_a_cancelled_call_ends_its_tools(make, eventually):
    tools, ended = ToolRegistry(), []

    @tools.tool
    async def get_weather(city: str) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(city)

    async def main() -> None:
        task = asyncio.create_task(make().achat(ChatConfig(user_message=ASK, tools=tools, tool_rounds=1)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = asyncio.Event()
    asyncio.run(main())
    assert len(ended) == 1


def test_what_a_tool_waited_for_may_be_cancelled(make):
    """That is no cancellation of the caller."""
    tools = Weather().tools

    @tools.tool
    async def wait(city: str) -> None:
        waiting = asyncio.ensure_future(asyncio.sleep(3600))
        asyncio.get_running_loop().call_soon(waiting.cancel)
        await waiting

    for message, others in (("Use wait", []), ("Use get_weather and wait", ["rain"])):
        config = ChatConfig(user_message=message, tools=tools, tool_rounds=1)
        for answer in (asyncio.run(make().achat(config)), make().chat(config)):
            told = [each["content"] for each in answer.following[1:]]
            assert told == [*others, "Error: the tool failed (CancelledError)"]
            assert answer.content
