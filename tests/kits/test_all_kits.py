"""One contract for all kits: each provider's official SDK, against a stand-in that speaks its protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from wire_endpoints import CACHED, AnthropicEndpoint, GoogleEndpoint

from ractogateway import ChatConfig, RactoPrompt
from ractogateway import anthropic_developer_kit as claude
from ractogateway import google_developer_kit as gemini
from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.answers import count_tokens
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderAuthenticationError,
    ProviderConnectionError,
    ProviderError,
    ProviderRateLimited,
    ProviderRequestRejected,
    ProviderTimeout,
    ProviderUnavailable,
    StructuredOutputError,
    UnsupportedByProvider,
)
from ractogateway.google_developer_kit.failures import translate
from ractogateway.messages import FinishReason

HELLO = ChatConfig(user_message="Why is the sky blue?")
PROMPT = RactoPrompt(role="You are a clerk.", aim="Answer letters.")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
AFTER_TOOLS = ChatConfig(
    user_message="",
    tools=[WEATHER],
    history=[
        {"role": "user", "content": "Use get_weather for Oslo and Rome"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "tool", "content": "sun", "tool_call_id": "c2"},
    ],
)


class Person(BaseModel):
    name: str
    age: int


@dataclass(frozen=True)
class Wire:
    kit: type
    endpoint: type[StandInEndpoint]
    variable: str
    url_variable: str
    cached: int = 0
    """Tokens of each prompt that the stand-in says came from the provider's own cache."""
    unauthorised: int = 401


WIRES = {
    "openai": Wire(gpt.OpenAIDeveloperKit, StandInEndpoint, "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": Wire(
        claude.AnthropicDeveloperKit, AnthropicEndpoint, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", cached=CACHED
    ),
    "google": Wire(
        gemini.GoogleDeveloperKit,
        GoogleEndpoint,
        "GEMINI_API_KEY",
        "GOOGLE_GEMINI_BASE_URL",
        cached=CACHED,
        unauthorised=400,
    ),
}


@pytest.fixture(scope="module", params=WIRES)
def wire(request) -> Wire:
    return WIRES[request.param]


@pytest.fixture(scope="module")
def _server(wire) -> Iterator[StandInEndpoint]:
    with wire.endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(_server, eventually) -> StandInEndpoint:
    eventually(lambda: _server.open_connections == 0)
    _server.requests = _server.hangups = 0
    _server.seen.clear()
    return _server


@pytest.fixture
def make(wire, endpoint) -> Iterator[Callable[..., Any]]:
    kits = []

    def make_kit(model: str = "stand-in", **options: Any) -> Any:
        defaults = {"api_key": endpoint.api_key, "base_url": endpoint.base_url, "max_retries": 0}
        kits.append(wire.kit(model, **{**defaults, **options}))
        return kits[-1]

    yield make_kit
    for kit in kits:
        kit.close()


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_same_shape_whoever_gave_it(ask, make, wire):
    answer = ask(make("think"), HELLO)

    assert answer.content.endswith(".")
    assert answer.thinking == f"The question has {len(HELLO.user_message)} characters."
    assert (answer.finish_reason, answer.parsed, answer.tool_calls) == (FinishReason.STOP, None, [])
    assert (answer.model, answer.cached, answer.saved_usage) == ("think", False, None)
    used = answer.usage
    assert used.prompt_tokens == 5
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


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRequestRejected),
        (401, ProviderAuthenticationError),
        (403, ProviderAuthenticationError),
        (404, ProviderRequestRejected),
        (429, ProviderRateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
    ],
)
def test_a_status_is_an_error_of_our_tree(asks, make, status, kind):
    kit = make(f"error-{status}")
    for ask in asks.values():
        with pytest.raises(ProviderError, match=rf"HTTP status {status} \(\w+\)$") as e:
            ask(kit, HELLO)
        assert (type(e.value), e.value.status) == (kind, status)
        assert e.value.request_id.startswith("req-")
        assert e.value.retry_after_seconds == (2 if status == 429 else None)
        assert (e.value.__cause__, e.value.__context__) == (None, None)


def test_a_wrong_key_is_an_authentication_error_that_shows_nothing(ask, wire, make):
    with pytest.raises(ProviderAuthenticationError) as e:
        ask(make(api_key="CANARY-key"), HELLO.model_copy(update={"user_message": "CANARY"}))
    assert e.value.status == wire.unauthorised
    assert "CANARY" not in repr(e.value)


def test_without_a_key_nothing_is_sent(ask, wire, make, endpoint, monkeypatch):
    monkeypatch.delenv(wire.variable, raising=False)
    with pytest.raises(ProviderAuthenticationError, match=wire.variable):
        ask(make(api_key=None), HELLO)
    assert endpoint.requests == 0


def test_a_silent_provider_is_a_timeout(ask, make):
    with pytest.raises(ProviderTimeout):
        ask(make("slow-150", timeout_seconds=0.05), HELLO)
    with pytest.raises(ProviderTimeout):
        ask(make("slow-150"), HELLO.model_copy(update={"extra": {"timeout": 0.05}}))


def test_nobody_listens(ask, make):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProviderConnectionError):
        ask(make(base_url=f"http://127.0.0.1:{port}"), HELLO)


@pytest.mark.parametrize("model", ["cut", "garbage"])
def test_an_answer_that_breaks_off_or_is_no_json(ask, make, model):
    with pytest.raises(ProviderConnectionError):
        ask(make(model), HELLO)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("cut", ProviderConnectionError), ("cut-clean", ProviderConnectionError), ("error-event", ProviderUnavailable)],
)
def test_a_stream_that_fails_halfway_gives_what_arrived_then_the_error(make, model, kind):
    kit = make(model, exact_cache=ExactMatchCache())
    got: list[str] = []

    async def consume() -> None:
        async for chunk in kit.astream(HELLO):
            got.append(chunk.delta)  # noqa: PERF401 - what arrived before the error has to be there

    with pytest.raises(kind):
        got.extend(chunk.delta for chunk in kit.stream(HELLO))
    half = "".join(got)
    assert half
    got.clear()
    with pytest.raises(kind):
        asyncio.run(consume())
    assert "".join(got) == half


def test_leaving_a_stream_hangs_up(make, endpoint, eventually):
    kit = make("endless")

    async def leave() -> None:
        stream = kit.astream(HELLO)
        await anext(stream)
        await stream.aclose()

    blocking = kit.stream(HELLO)
    next(blocking)
    blocking.close()
    eventually(lambda: endpoint.hangups == 1)
    asyncio.run(leave())
    eventually(lambda: endpoint.hangups == 2)


def test_a_repeated_request_is_the_sdks_business(make, endpoint):
    with pytest.raises(ProviderUnavailable):
        make("error-503", max_retries=1).chat(HELLO)
    assert endpoint.requests == 2


@pytest.mark.parametrize("name", ["model", "stream", "messages"])
def test_extra_cannot_replace_what_the_kit_decides(ask, make, endpoint, name):
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        ask(make(), HELLO.model_copy(update={"extra": {name: "CANARY"}}))
    assert endpoint.requests == 0


# --- caches ----------------------------------------------------------------------------------------------------------


def test_each_method_finds_what_each_other_stored(asks, make, endpoint):
    for storing in asks.values():
        kit = make(exact_cache=ExactMatchCache())
        first = storing(kit, HELLO)
        sent = endpoint.requests
        for finding in asks.values():
            hit = finding(kit, HELLO)
            assert (hit.cached, hit.content, hit.usage.total_tokens) == (True, first.content, 0)
            assert hit.saved_usage == first.usage
        assert endpoint.requests == sent


def test_a_hit_needs_no_key_and_is_parsed_again(ask, wire, make, monkeypatch):
    monkeypatch.delenv(wire.variable, raising=False)
    cache = ExactMatchCache()
    config = ChatConfig(user_message="Who?", response_model=Person)
    first = ask(make(exact_cache=cache), config)
    hit = ask(make(exact_cache=cache, api_key=None), config)
    assert (hit.cached, hit.parsed) == (True, first.parsed)


def test_what_is_no_answer_is_not_stored(ask, make, endpoint):
    cache = ExactMatchCache()
    cut = HELLO.model_copy(update={"max_tokens": 3})
    warm = HELLO.model_copy(update={"temperature": 0.5})
    for kit, config in ((make(exact_cache=cache), cut), (make(exact_cache=cache), warm)):
        ask(kit, config)
        assert not ask(kit, config).cached
    ask(make("refuse", exact_cache=cache), HELLO)
    assert len(cache) == 0


def test_everything_that_shapes_an_answer_is_its_own_entry(ask, make):
    cache = ExactMatchCache()
    kit = make(exact_cache=cache)
    configs = [
        HELLO,
        HELLO.model_copy(update={"max_tokens": 200}),
        HELLO.model_copy(update={"prompt": PROMPT}),
        HELLO.model_copy(update={"tools": [WEATHER]}),
        HELLO.model_copy(update={"history": [{"role": "user", "content": "Hi"}]}),
    ]
    for config in configs:
        assert not ask(kit, config).cached
    assert len(cache) == len(configs)


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_the_same_question_to_another_provider_or_server_is_another_entry(ask, asks, make):
    cache = ExactMatchCache()
    with StandInEndpoint() as other:
        kits = [make(exact_cache=cache), make(exact_cache=cache, base_url=other.base_url)]
        for wire in list(WIRES.values())[1:]:
            with wire.endpoint() as endpoint:
                options = {"base_url": endpoint.base_url, "api_key": endpoint.api_key}
                with wire.kit("stand-in", exact_cache=cache, **options) as kit:
                    assert not asks["chat"](kit, HELLO).cached
        for kit in kits:
            assert not ask(kit, HELLO).cached
    assert len(cache) == len(WIRES) + 1


def test_providers_differ_at_their_own_addresses_too():
    contexts = [wire.kit("m", api_key="k")._prepare(HELLO).identity.context for wire in WIRES.values()]
    assert contexts == [None, *({"provider": name} for name in list(WIRES)[1:])]


def test_a_cache_that_fails_costs_no_answer(ask, make, caplog):
    class Broken:
        def get(self, *_args, **_kwargs):
            raise RuntimeError("CANARY")

        put = get

    with caplog.at_level(logging.WARNING, "ractogateway.kit"):
        assert ask(make(exact_cache=Broken()), HELLO).content
    assert "CANARY" not in caplog.text
    assert "exact cache lookup failed: RuntimeError" in caplog.text


def test_many_at_once_pay_once(make, endpoint):
    kit = make("slow-30", exact_cache=ExactMatchCache())

    async def many() -> list[Any]:
        return await asyncio.gather(*(kit.achat(HELLO) for _ in range(20)))

    assert len({answer.content for answer in asyncio.run(many())}) == 1
    assert endpoint.requests == 1


# --- the rest --------------------------------------------------------------------------------------------------------


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


# --- what is particular to one ---------------------------------------------------------------------------------------


def test_anthropic_has_no_embeddings():
    kit = claude.AnthropicDeveloperKit("m", api_key="k")
    with pytest.raises(UnsupportedByProvider, match="has no embeddings"):
        kit.embed("text")
    with pytest.raises(NotImplementedError):
        asyncio.run(kit.aembed("text"))


@pytest.mark.parametrize("wire", ["openai", "google"], indirect=True)
def test_texts_become_vectors(make):
    kit = make()
    one, two = kit.embed(["one", "two"], dimensions=8)
    assert len(one) == len(two) == 8
    assert one != two
    assert kit.embed("one", dimensions=8) == [one]
    assert asyncio.run(kit.aembed(["two", "one"], dimensions=8)) == [two, one]
    with pytest.raises(ProviderRateLimited):
        kit.embed("one", model="error-429")
    with pytest.raises(InvalidValueError):
        kit.embed([])


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
def test_a_conversation_in_anthropics_words(ask, make, endpoint):
    history = [
        {"role": "system", "content": "Be brief."},
        *AFTER_TOOLS.history,
        {"role": "model", "content": "Wet and dry."},
    ]
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "text", "text": "native", "cache_control": {"type": "ephemeral"}},
    ]
    config = ChatConfig(user_message="And now?", history=history, tools=[WEATHER], attachments=parts)
    ask(make(default_prompt=PROMPT), config)

    body = endpoint.seen[-1].body
    assert body["system"] == f"{PROMPT.compile()}\n\nBe brief."
    use = {"type": "tool_use", "name": "get_weather", "input": {"city": "Oslo"}}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Use get_weather for Oslo and Rome"}]},
        {"role": "assistant", "content": [{**use, "id": "c1"}, {**use, "id": "c2"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "sun"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Wet and dry."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And now?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                parts[3],
            ],
        },
    ]
    function = WEATHER["function"]
    assert body["tools"] == [
        {"name": "get_weather", "description": function["description"], "input_schema": function["parameters"]}
    ]


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        *((model, True) for model in ("stand-in", "claude-3-5-haiku-latest", "claude-sonnet-4-6", "claude-haiku-4-5")),
        *((f"claude-opus-4{rest}", True) for rest in ("", "-1", "-20250514", "-5-20251101", "-6")),
        *((f"claude-{rest}", False) for rest in ("opus-4-7", "opus-4-8-20260101", "opus-5", "sonnet-5", "haiku-5-5")),
        ("anthropic.claude-fable-5-1", False),
    ],
)
@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
def test_models_that_refuse_any_temperature_get_none_by_default(make, endpoint, model, sent):
    kit = make(model, exact_cache=ExactMatchCache())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's, of some of these models
        assert [kit.chat(HELLO).cached, kit.chat(HELLO).cached] == [False, True]
        assert ("temperature" in endpoint.seen[-1].body) == sent
        kit.chat(HELLO.model_copy(update={"temperature": 0.0, "max_tokens": 9}))
    assert endpoint.seen[-1].body["temperature"] == 0.0


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
def test_a_long_answer_may_be_asked_for_whole(make, endpoint):
    # By itself the SDK refuses what might take longer than its default timeout.
    assert make().chat(HELLO.model_copy(update={"max_tokens": 200_000})).content
    assert endpoint.seen[-1].body["max_tokens"] == 200_000


@pytest.mark.parametrize("wire", ["google"], indirect=True)
def test_a_conversation_in_googles_words(ask, make, endpoint):
    history = [{"role": "system", "content": "Be brief."}, *AFTER_TOOLS.history, {"role": "model", "content": "Wet."}]
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "https://example.com/a.pdf"}},
        {"text": "native"},
    ]
    config = ChatConfig(user_message="And now?", history=history, tools=[WEATHER], attachments=parts, extra={"seed": 7})
    ask(make(default_prompt=PROMPT), config)

    # Names in both spellings are one to this API, and the SDK mixes them.
    sent = json.dumps(endpoint.seen[-1].body)
    body = json.loads(re.sub(r'"\w+":', lambda name: re.sub("([A-Z])", r"_\1", name[0]).lower(), sent))
    assert body["system_instruction"]["parts"] == [{"text": f"{PROMPT.compile()}\n\nBe brief."}]
    call = {"name": "get_weather", "args": {"city": "Oslo"}}
    result = {"name": "get_weather", "response": {"result": "rain"}}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Use get_weather for Oslo and Rome"}]},
        {"role": "model", "parts": [{"function_call": {**call, "id": "c1"}}, {"function_call": {**call, "id": "c2"}}]},
        {
            "role": "user",
            "parts": [
                {"function_response": {**result, "id": "c1"}},
                {"function_response": {**result, "id": "c2", "response": {"result": "sun"}}},
            ],
        },
        {"role": "model", "parts": [{"text": "Wet."}]},
        {
            "role": "user",
            "parts": [
                {"text": "And now?"},
                {"inline_data": {"mime_type": "image/png", "data": "AAAA"}},
                {"file_data": {"mime_type": "application/pdf", "file_uri": "https://example.com/a.pdf"}},
                {"text": "native"},
            ],
        },
    ]
    assert body["generation_config"]["seed"] == 7


@pytest.mark.parametrize("extra", [{"topK": 1}, {"no_such_field": "CANARY"}, {"http_options": {}}, {"extra_body": {}}])
@pytest.mark.parametrize("wire", ["google"], indirect=True)
def test_extra_holds_fields_of_googles_config(ask, make, endpoint, extra):
    with pytest.raises(InvalidValueError) as e:
        ask(make(), HELLO.model_copy(update={"extra": extra}))
    assert "CANARY" not in str(e.value)
    assert endpoint.requests == 0


def test_google_says_in_its_body_when_to_come_back():
    from google.genai.errors import ClientError

    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "CANARY", "details": details}}
    error = translate(ClientError(429, body))
    assert isinstance(error, ProviderRateLimited)
    assert (error.status, error.retry_after_seconds) == (429, 17.5)
    assert str(error) == "the provider answered with HTTP status 429 (RESOURCE_EXHAUSTED)"


@pytest.mark.parametrize(
    "history",
    [
        [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "CANARY"}}]}],
        [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "CANARY"}}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"file_id": "CANARY"}}]}],
    ],
)
@pytest.mark.parametrize("wire", list(WIRES)[1:], indirect=True)
def test_what_cannot_be_translated_is_refused(ask, make, endpoint, history):
    with pytest.raises(InvalidValueError) as e:
        ask(make(), HELLO.model_copy(update={"history": history}))
    assert "CANARY" not in str(e.value)
    assert endpoint.requests == 0
