"""The same request gives the same shape of answer, whichever provider is asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from kit_tools import question
from kit_wires import AFTER_TOOLS, HELLO, PROMPT, WEATHER, Person

from ractogateway import ChatConfig
from ractogateway._demo.answers import count_tokens
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    StructuredOutputError,
)
from ractogateway.messages import FinishReason


def test_an_answer_has_the_same_shape_whoever_gave_it(ask, make, wire):
    answer = ask(make("think"), HELLO)

    assert answer.content.endswith(".")
    assert answer.thinking == f"The question has {len(HELLO.user_message)} characters."
    assert (answer.finish_reason, answer.parsed, answer.tool_calls) == (FinishReason.STOP, None, [])
    assert (answer.model, answer.cached, answer.saved_usage) == ("think", False, None)
    used = answer.usage
    assert used.prompt_tokens == count_tokens(HELLO.user_message)
    assert used.completion_tokens == count_tokens(answer.thinking + answer.content)
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens
    assert used.reasoning_tokens == count_tokens(answer.thinking)
    assert used.cached_tokens == wire.cached


def test_all_four_methods_agree(asks, make):
    kit = make(default_prompt=PROMPT)
    for config in (HELLO, ChatConfig(user_message="Use get_weather", tools=[WEATHER])):
        answers = [ask(kit, config).model_dump() for ask in asks.values()]
        assert all(answer == answers[0] for answer in answers[1:])


def test_only_whole_answers_have_the_providers_object(asks, make):
    kit = make()
    assert {name: ask(kit, HELLO).raw is not None for name, ask in asks.items()} == {
        "chat": True,
        "achat": True,
        "stream": False,
        "astream": False,
    }


def test_a_stream_comes_in_pieces_that_make_the_whole(make):
    chunks = list(make("think").stream(HELLO))

    assert len(chunks) > 5
    last = chunks[-1]
    assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk.delta for chunk in chunks) == chunks[-2].text == last.text == last.response.content
    assert "".join(chunk.thinking_delta for chunk in chunks) == last.response.thinking


def test_the_limit_and_the_prompt_reach_the_provider(ask, make):
    short = ask(make(), HELLO.model_copy(update={"max_tokens": 3}))
    assert (short.finish_reason, short.usage.completion_tokens) == (FinishReason.LENGTH, 3)
    plain, prompted = ask(make(), HELLO), ask(make(default_prompt=PROMPT), HELLO)
    assert prompted.usage.prompt_tokens > plain.usage.prompt_tokens


def test_a_refusal_is_no_answer(ask, make):
    config = HELLO.model_copy(update={"response_model": Person})
    answer = ask(make("refuse"), config)
    assert (answer.finish_reason, answer.parsed) == (FinishReason.CONTENT_FILTER, None)


def test_tools_are_described_once_for_all(ask, make):
    answer = ask(make(), ChatConfig(user_message="Use get_weather, please", tools=[WEATHER]))

    (call,) = answer.tool_calls
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert (call.id, call.name, set(call.arguments)) == ("call_0", "get_weather", {"city"})
    assert json.loads(call.arguments_json) == call.arguments
    assert answer.content is None


def test_what_tools_answered_goes_back(ask, make):
    answer = ask(make(), AFTER_TOOLS)
    assert (answer.finish_reason, answer.tool_calls) == (FinishReason.STOP, [])
    assert answer.content


def test_a_response_model_is_asked_for_and_parsed(ask, make):
    answer = ask(make(), ChatConfig(user_message="Who?", response_model=Person))
    assert isinstance(answer.parsed, Person)
    assert Person.model_validate_json(answer.content) == answer.parsed


def test_a_schema_is_made_once_for_each_request(ask, make, tools):
    made = []

    class Counted(Person):
        @classmethod
        def model_json_schema(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
            made.append(1)
            return super().model_json_schema(*arguments, **named)

    kit = make(**tools.all())
    config = question("Who?", conversation_id=None, response_model=Counted)
    assert ask(kit, config).cached is False
    assert made == [1]
    assert ask(kit, config).cached is True
    assert made == [1, 1]


def test_an_answer_that_does_not_fit_is_an_error(ask, make):
    with pytest.raises(StructuredOutputError) as e:
        ask(make("misfit"), ChatConfig(user_message="Who?", response_model=Person))
    assert "unexpected" in e.value.response.content


def test_extra_wins_and_none_leaves_out(ask, make, endpoint):
    ask(make(), HELLO.model_copy(update={"extra": {"temperature": None}}))
    assert "temperature" not in json.dumps(endpoint.seen[-1].body)


def test_the_key_and_the_address_may_come_from_the_environment(ask, wire, make, endpoint, monkeypatch):
    monkeypatch.setenv(wire.variable, endpoint.api_key)
    monkeypatch.setenv(wire.url_variable, endpoint.base_url)
    assert ask(make(api_key=None, base_url=None), HELLO).content


def test_two_loops_one_after_the_other(make, endpoint, eventually):
    kit = make()
    for _ in range(2):
        assert asyncio.run(kit.achat(HELLO)).content
    eventually(lambda: endpoint.open_connections == 0)


def test_a_repr_shows_the_model_alone(wire):
    assert repr(wire.kit("m", api_key="CANARY", default_prompt=PROMPT)) == f"{wire.kit.__name__}(model='m')"


@pytest.mark.parametrize("wrong", [{"api_key": "a\n"}, {"base_url": "ftp://x"}, {"timeout_seconds": 0}, {"model": ""}])
def test_bad_arguments_are_refused_at_once(wire, wrong):
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        wire.kit(**{"model": "m", **wrong})
