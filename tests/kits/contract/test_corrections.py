"""Structured output that does not fit is shown to the model, as often as the caller wants to pay for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from kit_wires import Person
from pydantic import BaseModel, field_validator

from ractogateway import ChatConfig
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import StructuredOutputError
from ractogateway.messages import StreamChunk, Usage


def config_of(retries: int, response_model: type[BaseModel] = Person, **more: Any) -> ChatConfig:
    return ChatConfig(user_message="Who?", response_model=response_model, correction_retries=retries, **more)


def test_a_model_that_sees_what_is_wrong_mends_it(ask, make, endpoint):
    answer = ask(make("misfit-once"), config_of(1))

    assert isinstance(answer.parsed, Person)
    assert Person.model_validate_json(answer.content) == answer.parsed
    assert endpoint.requests == 2
    first, second = (json.dumps(request.body) for request in endpoint.seen)
    assert "does not fit" not in first
    assert "name: Field required; age: Field required" in second
    assert "unexpected" in second, "its own answer"
    assert answer.following == [], "what went wrong is no part of the conversation"


def test_all_attempts_are_paid_for(ask, make, endpoint):
    answer = ask(make("misfit-once"), config_of(3))
    bad = bad_answer(lambda: ask(make("misfit-once"), config_of(0)))
    assert endpoint.requests == 3
    assert answer.usage.total_tokens > 2 * bad.usage.total_tokens > 0
    assert answer.usage.completion_tokens > bad.usage.completion_tokens


def bad_answer(call: Any) -> Any:
    with pytest.raises(StructuredOutputError, match=r"does not fit Person \(problems found: 2\)") as e:
        call()
    return e.value.response


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_are_bounded_and_the_last_answer_is_in_the_error(ask, make, endpoint, retries):
    bad = bad_answer(lambda: ask(make("misfit"), config_of(retries)))
    assert endpoint.requests == 1 + retries
    assert json.loads(bad.content) == {"unexpected": True}
    assert (bad.usage.total_tokens > 100) == (retries > 0), "that of all attempts"


def test_what_was_mended_is_kept_for_the_first_question(asks, make, endpoint):
    kit = make("misfit-once", exact_cache=ExactMatchCache())
    answers = [ask(kit, config_of(retries)) for ask in asks.values() for retries in (1, 5, 0)]
    assert [answer.cached for answer in answers] == [False] + [True] * 11
    assert all(answer.parsed == answers[0].parsed for answer in answers)
    assert endpoint.requests == 2
    assert answers[1].saved_usage == answers[0].usage


def test_what_never_fitted_is_kept_for_nobody(ask, make):
    cache = ExactMatchCache()
    bad_answer(lambda: ask(make("misfit", exact_cache=cache), config_of(1)))
    assert len(cache) == 0


class Picky(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _never(cls, name: str) -> str:
        raise ValueError(f"CANARY {name}" * 1000)


def test_what_a_validator_says_reaches_the_model_alone(ask, make, endpoint):
    with pytest.raises(StructuredOutputError) as e:
        ask(make(), config_of(1, Picky))
    assert "CANARY" not in f"{e.value!r} {e.value.__cause__!r} {e.value.__context__!r}"
    body = json.dumps(endpoint.seen[-1].body)
    assert "CANARY" in body
    assert len(body) < 3000


def test_a_refusal_is_not_corrected(ask, make, endpoint):
    assert ask(make("refuse"), config_of(3)).parsed is None
    assert endpoint.requests == 1


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_stream_says_what_is_to_be_replaced(make, method):
    kit, config = make("misfit-once"), config_of(1)

    async def consume() -> list[StreamChunk]:
        return [chunk async for chunk in kit.astream(config)]

    chunks = list(kit.stream(config)) if method == "stream" else asyncio.run(consume())
    (middle,) = (index for index, chunk in enumerate(chunks) if chunk.response is not None and not chunk.is_final)
    assert json.loads(chunks[middle].response.content) == {"unexpected": True}
    assert chunks[middle].response.parsed is None
    last = chunks[-1]
    assert "".join(chunk.delta for chunk in chunks[middle:]) == last.text == last.response.content
    assert isinstance(last.response.parsed, Person)
    assert last.response.usage != Usage()


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_stream_that_never_fits_ends_with_the_error(asks, make, endpoint, method):
    bad_answer(lambda: asks[method](make("misfit"), config_of(1)))
    assert endpoint.requests == 2
