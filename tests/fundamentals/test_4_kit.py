"""A kit, one idea at a time. Read from top to bottom.

The model is a stand-in on this machine which speaks OpenAI's protocol and counts its requests.
"""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from ractogateway import RactoPrompt
from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.errors import ProviderAuthenticationError, ProviderRateLimited
from ractogateway.redis import RedisExactCache

pytestmark = pytest.mark.usefixtures("patience")

QUESTION = gpt.ChatConfig(user_message="Where is the Louvre?")


@pytest.fixture
def model():
    with StandInEndpoint(api_key="a key") as endpoint:
        yield endpoint


@pytest.fixture
def make_kit(model):
    kits = []

    def make(name="gpt-4o", **settings):
        kits.append(gpt.OpenAIDeveloperKit(model=name, base_url=model.base_url, **{"api_key": "a key", **settings}))
        return kits[-1]

    yield make
    for kit in kits:
        kit.close()


@pytest.fixture
def cache(any_server):
    return RedisExactCache(url=any_server.url, ttl_seconds=60)


def test_a_question_gets_an_answer(make_kit):
    answer = make_kit().chat(QUESTION)
    assert answer.content
    assert answer.finish_reason is gpt.FinishReason.STOP
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_stream_is_the_same_answer_in_pieces(make_kit):
    kit = make_kit()
    chunks = list(kit.stream(QUESTION))
    assert "".join(chunk.delta for chunk in chunks) == chunks[-1].response.content == kit.chat(QUESTION).content
    assert [chunk.is_final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_a_prompt_becomes_the_system_message(make_kit, model):
    make_kit(default_prompt=RactoPrompt(role="You are a guide.", aim="Be brief.")).chat(QUESTION)
    make_kit().chat(QUESTION)
    with_prompt, without = (request.body["messages"] for request in model.seen)
    assert [message["role"] for message in with_prompt] == ["system", "user"]
    assert with_prompt[0]["content"] == "[ROLE]\nYou are a guide.\n\n[AIM]\nBe brief."
    assert [message["role"] for message in without] == ["user"], "no prompt, no system message"


def test_a_tool_call_arrives_parsed(make_kit):
    weather = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    answer = make_kit().chat(gpt.ChatConfig(user_message="Call weather for Paris", tools=[weather]))
    assert answer.finish_reason is gpt.FinishReason.TOOL_CALLS
    assert answer.tool_calls[0].name == "weather"
    assert isinstance(answer.tool_calls[0].arguments["city"], str)


def test_structured_output_arrives_as_an_instance(make_kit):
    class Place(BaseModel):
        name: str
        floors: int

    answer = make_kit().chat(gpt.ChatConfig(user_message="Describe the Louvre", response_model=Place))
    assert isinstance(answer.parsed, Place)


def test_the_second_time_the_cache_answers(make_kit, cache, model):
    kit = make_kit(exact_cache=cache)
    first, second = kit.chat(QUESTION), kit.chat(QUESTION)
    assert (first.cached, second.cached) == (False, True)
    assert second.content == first.content
    assert model.requests == 1


def test_a_cached_answer_streams_too(make_kit, cache, model):
    kit = make_kit(exact_cache=cache)
    first = kit.chat(QUESTION)
    assert "".join(chunk.delta for chunk in kit.stream(QUESTION)) == first.content
    assert model.requests == 1


def test_another_history_is_another_request(make_kit, cache, model):
    kit = make_kit(exact_cache=cache)
    kit.chat(QUESTION)
    kit.chat(gpt.ChatConfig(user_message=QUESTION.user_message, history=[{"role": "user", "content": "Hello!"}]))
    assert model.requests == 2


def test_an_answer_at_a_temperature_is_a_sample_and_not_stored(make_kit, cache, model):
    kit = make_kit(exact_cache=cache)
    for _ in range(2):
        kit.chat(gpt.ChatConfig(user_message="Surprise me", temperature=1.0))
    assert model.requests == 2
    assert len(cache) == 0


def test_a_providers_refusal_is_an_error_of_this_library(make_kit):
    with pytest.raises(ProviderAuthenticationError) as wrong_key:
        make_kit(api_key="another key").chat(QUESTION)
    assert wrong_key.value.status == 401
    with pytest.raises(ProviderRateLimited) as too_much:
        make_kit("error-429", max_retries=0).chat(QUESTION)
    assert too_much.value.retry_after_seconds == 2.0
    assert QUESTION.user_message not in str(too_much.value)


def test_a_text_becomes_a_vector(make_kit):
    one, two = make_kit().embed(["Louvre", "Orsay"], dimensions=8)
    assert (len(one), len(two)) == (8, 8)
    assert one != two
