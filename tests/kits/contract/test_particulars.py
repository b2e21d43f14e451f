"""What each provider is told in its own words, and what only one of them has."""

from __future__ import annotations

import asyncio
import json
import re
import warnings

import pytest
from kit_wires import AFTER_TOOLS, HELLO, PROMPT, WEATHER, WIRES, Person

from ractogateway import ChatConfig
from ractogateway import anthropic_developer_kit as claude
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderRateLimited,
    UnsupportedByProvider,
)
from ractogateway.google_developer_kit.failures import translate


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
        # Sent differently, so another entry.
        assert kit.chat(HELLO.model_copy(update={"temperature": 0.0})).cached == sent
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
    error = translate(ClientError(429, body), "host:443")
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


@pytest.mark.parametrize("calls", ["CANARY", ["CANARY"], [{"id": "c", "function": "CANARY"}], [object()]])
@pytest.mark.parametrize("wire", list(WIRES)[1:], indirect=True)
def test_tool_calls_of_another_type_are_refused(make, endpoint, calls):
    with pytest.raises(InvalidTypeError) as e:
        make().chat(HELLO.model_copy(update={"history": [{"role": "assistant", "tool_calls": calls}]}))
    assert "CANARY" not in str(e.value)
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", list(WIRES)[1:], indirect=True)
def test_with_nothing_to_say_nothing_is_sent(ask, make, endpoint):
    with pytest.raises(InvalidValueError, match="nothing to send"):
        ask(make(default_prompt=PROMPT), ChatConfig(user_message=""))
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", ["anthropic"], indirect=True)
def test_a_format_joins_other_settings_of_the_output(make, endpoint):
    extra = {"output_config": {"effort": "low"}}
    make().chat(ChatConfig(user_message="Who?", response_model=Person, extra=extra))
    config = endpoint.seen[-1].body["output_config"]
    assert (config["effort"], config["format"]["type"]) == ("low", "json_schema")


def test_who_asks_anthropic_does_not_change_the_answer():
    def context(base_url: str | None) -> object:
        kit = claude.AnthropicDeveloperKit("m", api_key="k", base_url=base_url)
        return kit._prepare(HELLO.model_copy(update={"extra": {"metadata": {"user_id": "u"}}})).identity.context

    assert context(None) == {"provider": "anthropic"}
    assert "extra" in context("http://localhost:1")
