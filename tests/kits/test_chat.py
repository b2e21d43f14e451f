"""What goes to the provider, and what comes back, by all four methods."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import BaseModel

from ractogateway.errors import BlockingCallWarning, InvalidTypeError, InvalidValueError, StructuredOutputError
from ractogateway.openai_developer_kit import ChatConfig, FinishReason, Message, RactoPrompt

PROMPT = RactoPrompt(role="You are a clerk.", aim="Answer letters.")
OTHER_PROMPT = RactoPrompt(role="You are a cook.", aim="Feed people.")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


class Address(BaseModel):
    street: str
    number: int | None


class Person(BaseModel):
    name: str
    age: int
    homes: list[Address]


def test_an_answer_has_text_usage_and_a_reason(ask, make_kit, endpoint):
    answer = ask(make_kit(), ChatConfig(user_message="Why is the sky blue?"))

    assert answer.content.endswith(".")
    assert answer.finish_reason is FinishReason.STOP
    assert (answer.thinking, answer.parsed, answer.tool_calls, answer.cached) == (None, None, [], False)
    assert answer.model == "stand-in"
    assert answer.usage.prompt_tokens == 5  # 20 bytes, four a token
    assert answer.usage.completion_tokens == -(-len(answer.content) // 4)
    assert answer.usage.total_tokens == endpoint.tokens_billed


def test_all_four_methods_give_the_same_answer(asks, make_kit):
    kit = make_kit()
    config = ChatConfig(user_message="Why is the sky blue?", prompt=PROMPT)
    answers = [ask(kit, config).model_dump() for ask in asks.values()]  # without `raw`, which streams have none of

    assert all(answer == answers[0] for answer in answers[1:])


def test_messages_are_the_prompt_then_the_history_then_the_question(ask, make_kit, endpoint):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    history = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "model", "content": "It rains."},
    ]
    ask(make_kit(default_prompt=PROMPT), ChatConfig(user_message="And tomorrow?", history=history))

    assert endpoint.seen[-1].body["messages"] == [
        {"role": "system", "content": PROMPT.compile()},
        *history[:3],
        {"role": "assistant", "content": "It rains."},  # OpenAI's word for Gemini's "model"
        {"role": "user", "content": "And tomorrow?"},
    ]


def test_a_prompt_of_the_request_replaces_the_default_one(ask, make_kit, endpoint):
    ask(make_kit(default_prompt=PROMPT), ChatConfig(user_message="Hello", prompt=OTHER_PROMPT))

    assert endpoint.seen[-1].body["messages"][0] == {"role": "system", "content": OTHER_PROMPT.compile()}


def test_without_a_prompt_there_is_no_system_message(ask, make_kit, endpoint):
    ask(make_kit(), ChatConfig(user_message="Hello"))

    assert endpoint.seen[-1].body["messages"] == [{"role": "user", "content": "Hello"}]


def test_attachments_are_further_parts_of_the_user_message(ask, make_kit, endpoint):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    ask(make_kit(), ChatConfig(user_message="What is this?", attachments=[picture]))

    assert endpoint.seen[-1].body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}
    ]


def test_the_token_limit_is_sent_and_a_cut_answer_says_so(ask, make_kit, endpoint):
    answer = ask(make_kit(), ChatConfig(user_message="Hello", max_tokens=3, temperature=0.5))

    assert endpoint.seen[-1].body["max_tokens"] == 3
    assert endpoint.seen[-1].body["temperature"] == 0.5
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage.completion_tokens == 3


def test_a_tool_call_is_parsed_and_kept_as_written(ask, make_kit, endpoint):
    answer = ask(make_kit(), ChatConfig(user_message="Use get_weather, please", tools=[WEATHER]))

    (call,) = answer.tool_calls
    assert endpoint.seen[-1].body["tools"] == [WEATHER]
    assert answer.content is None
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert (call.id, call.name) == ("call_0", "get_weather")
    assert set(call.arguments) == {"city", "days"}
    assert json.loads(call.arguments_json) == call.arguments


def test_arguments_that_are_no_json_are_kept_as_text(ask, make_kit):
    answer = ask(make_kit("bad-arguments"), ChatConfig(user_message="Use get_weather, please", tools=[WEATHER]))

    assert answer.tool_calls[0].arguments == {}
    assert answer.tool_calls[0].arguments_json.startswith('{"city": ')


def test_visible_reasoning_is_thinking(ask, make_kit):
    answer = ask(make_kit("think"), ChatConfig(user_message="Hello"))

    assert answer.thinking == "The question has 5 characters."
    assert answer.usage.reasoning_tokens == 8


def test_structured_output_is_an_instance(ask, make_kit, endpoint):
    answer = ask(make_kit(), ChatConfig(user_message="Who?", response_model=Person))

    wanted = endpoint.seen[-1].body["response_format"]
    assert (wanted["type"], wanted["json_schema"]["name"], wanted["json_schema"]["strict"]) == (
        "json_schema",
        "Person",
        True,
    )
    assert wanted["json_schema"]["schema"]["additionalProperties"] is False
    assert isinstance(answer.parsed, Person)
    assert answer.parsed == Person.model_validate_json(answer.content)


def test_structured_output_that_does_not_fit_is_an_error_without_the_answer(ask, make_kit):
    with pytest.raises(StructuredOutputError, match=r"^the answer does not fit Person \(problems found: 3\)$") as e:
        ask(make_kit("misfit"), ChatConfig(user_message="Who?", response_model=Person))

    assert e.value.response.content == '{"unexpected": true}'
    assert e.value.__cause__ is e.value.__context__ is None


@pytest.mark.parametrize(
    ("model", "max_tokens", "reason"), [("refuse", 100, FinishReason.CONTENT_FILTER), ("m", 2, FinishReason.LENGTH)]
)
def test_a_refused_or_cut_structured_answer_is_no_error(ask, make_kit, model, max_tokens, reason):
    answer = ask(make_kit(model), ChatConfig(user_message="Who?", response_model=Person, max_tokens=max_tokens))

    assert answer.parsed is None
    assert answer.finish_reason is reason
    assert answer.content


@pytest.mark.parametrize("extra", [{"top_k": 5, "seed": 7}, {"extra_body": {"top_k": 5}, "seed": 7}])
def test_extra_is_merged_into_the_request(ask, make_kit, endpoint, extra):
    headers = {"X-Route": "blue"}
    ask(make_kit(), ChatConfig(user_message="Hello", extra={**extra, "extra_headers": headers, "timeout": 30}))

    body = endpoint.seen[-1].body
    assert (body["top_k"], body["seed"]) == (5, 7)
    assert endpoint.seen[-1].headers["x-route"] == "blue"
    assert not {"extra_body", "extra_headers", "timeout"} & set(body)


def test_extra_wins_and_none_leaves_a_parameter_out(ask, make_kit, endpoint):
    extra = {"temperature": None, "max_completion_tokens": 9, "tools": [WEATHER], "stop": None}
    ask(make_kit(), ChatConfig(user_message="Hello", extra=extra))

    body = endpoint.seen[-1].body
    assert not {"temperature", "max_tokens", "stop"} & set(body)
    assert body["max_completion_tokens"] == 9
    assert body["tools"] == [WEATHER]


def test_stream_options_go_with_streams_only(make_kit, endpoint, asks):
    config = ChatConfig(user_message="Hello", extra={"stream_options": {"include_obfuscation": False}})
    asks["stream"](make_kit(), config)
    asks["chat"](make_kit(), config)

    streamed, plain = (request.body for request in endpoint.seen)
    assert streamed["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert "stream_options" not in plain


@pytest.mark.parametrize("extra", [{"model": "x"}, {"stream": True}, {"extra_body": {"messages": []}}])
def test_extra_cannot_replace_what_the_kit_decides(ask, make_kit, endpoint, extra):
    with pytest.raises(InvalidValueError, match=r"extra must not set (model|stream|messages)"):
        ask(make_kit(), ChatConfig(user_message="Hello", extra=extra))
    assert endpoint.requests == 0


@pytest.mark.parametrize("extra", [{"extra_body": "x"}, {"extra_headers": ["x"]}])
def test_extra_of_a_wrong_type_is_refused(ask, make_kit, extra):
    with pytest.raises(InvalidTypeError, match="must be a mapping"):
        ask(make_kit(), ChatConfig(user_message="Hello", extra=extra))


def test_only_a_chat_config_is_a_request(ask, make_kit):
    with pytest.raises(InvalidTypeError, match="config must be a ChatConfig, not str"):
        ask(make_kit(), "Hello")


def test_pieces_of_a_stream_join_to_the_answer(make_kit):
    chunks = list(make_kit("think").stream(ChatConfig(user_message="Hello")))

    *pieces, last = chunks
    assert len(pieces) > 5
    assert not any(chunk.is_final for chunk in pieces)
    assert "".join(chunk.thinking_delta for chunk in chunks) == last.response.thinking
    assert "".join(chunk.delta for chunk in chunks) == last.response.content == last.text == pieces[-1].text
    assert (last.is_final, last.delta, last.finish_reason) == (True, "", FinishReason.STOP)


def test_blocking_methods_work_inside_a_running_loop(make_kit):
    kit = make_kit()

    async def main() -> tuple[str, str]:
        return kit.chat(ChatConfig(user_message="a")).content, list(kit.stream(ChatConfig(user_message="a")))[-1].text

    with pytest.warns(BlockingCallWarning, match="await achat") as caught:
        plain, streamed = asyncio.run(main())
    assert plain == streamed
    assert {each.filename for each in caught} == {__file__}


def test_embeddings_come_in_the_order_of_the_texts(make_kit, endpoint):
    kit = make_kit(embedding_model="embedder")
    one, two = kit.embed(["one", "two"], dimensions=4)

    assert one != two
    assert len(one) == len(two) == 4
    assert kit.embed("one", dimensions=4) == [one]
    assert asyncio.run(kit.aembed(("two", "one"), dimensions=4)) == [two, one]
    assert len(kit.embed("one", model="other")[0]) == 1536
    assert [request.body["model"] for request in endpoint.seen] == ["embedder"] * 3 + ["other"]


@pytest.mark.parametrize(
    ("texts", "error"),
    [([], InvalidValueError), (b"x", InvalidTypeError), (["a", 1], InvalidTypeError), (None, TypeError)],
)
def test_bad_texts_are_refused(make_kit, endpoint, texts, error):
    with pytest.raises(error):
        make_kit().embed(texts)
    with pytest.raises(error):
        asyncio.run(make_kit().aembed(texts))
    assert endpoint.requests == 0


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"model": None},
        {"api_key": ""},
        {"api_key": 5},
        {"base_url": "api.openai.com"},
        {"base_url": "ftp://x"},
        {"base_url": "https://"},
        {"base_url": 5},
        {"embedding_model": ""},
        {"default_prompt": "You are a clerk."},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": "1"},
        {"timeout_seconds": True},
        {"max_retries": -1},
        {"max_retries": 1.0},
    ],
)
def test_bad_options_are_refused_when_the_kit_is_made(make_kit, options):
    with pytest.raises((InvalidTypeError, InvalidValueError), match=next(iter(options))):
        make_kit(**options)


def test_history_may_be_made_of_messages(ask, make_kit, endpoint):
    ask(make_kit(), ChatConfig(user_message="b", history=[Message(role="user", content="a", name="Ann")]))

    assert endpoint.seen[-1].body["messages"][0] == {"role": "user", "content": "a", "name": "Ann"}
