"""Which answers may be stored."""

from __future__ import annotations

import pytest

from ractogateway.cache import is_storable
from ractogateway.cache.policy import jittered
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import FinishReason, LLMResponse, ToolCall
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache

CALL = ToolCall(id="call_1", name="look_up")


@pytest.mark.parametrize(
    "response",
    [
        LLMResponse(content="Paris"),
        LLMResponse(content="0"),
        LLMResponse(content=None, tool_calls=[CALL], finish_reason=FinishReason.TOOL_CALLS),
        # OpenAI ends a forced tool call with "stop".
        LLMResponse(content="", tool_calls=[CALL], finish_reason=FinishReason.STOP),
        LLMResponse(parsed={"a": 1}),
        LLMResponse(parsed=[]),
        LLMResponse(parsed=0),
        LLMResponse(content="Paris", thinking="France …"),
        LLMResponse(content="Paris", cached=True),
    ],
)
def test_a_complete_answer_is_stored(response):
    assert is_storable(response, temperature=0) is True


@pytest.mark.parametrize("reason", sorted(set(FinishReason) - {FinishReason.STOP, FinishReason.TOOL_CALLS}))
def test_an_answer_that_ended_otherwise_is_not(reason):
    assert is_storable(LLMResponse(content="Par", finish_reason=reason), temperature=0.0) is False
    assert is_storable(LLMResponse(tool_calls=[CALL], finish_reason=reason), temperature=0.0) is False


def test_a_reason_nobody_knew_is_not():
    response = LLMResponse(content="Paris").model_copy(update={"finish_reason": "brand_new"})
    assert is_storable(response, temperature=0.0) is False


@pytest.mark.parametrize(
    "response",
    [
        LLMResponse(),
        LLMResponse(content=""),
        LLMResponse(content=" \n\t\u00a0"),
        LLMResponse(thinking="France …"),
        LLMResponse(finish_reason=FinishReason.TOOL_CALLS),
    ],
)
def test_an_empty_answer_is_not(response):
    assert is_storable(response, temperature=0.0) is False


@pytest.mark.parametrize(
    ("temperature", "highest", "stored"),
    [
        (0, 0.0, True),
        (-0.0, 0.0, True),
        (5e-324, 0.0, False),
        (0.7, 0.0, False),
        (0.7, 0.7, True),
        (0.7, 2, True),
        (2.0, 0.7, False),
        (-0.1, 2.0, False),
        (0.0, -1.0, False),
    ],
)
def test_the_temperature_rule(temperature, highest, stored):
    response = LLMResponse(content="Paris")
    assert is_storable(response, temperature=temperature, max_temperature=highest) is stored
    if highest == 0.0:
        assert is_storable(response, temperature=temperature) is stored


@pytest.mark.parametrize("wrong", ["0", True, None])
def test_a_temperature_of_the_wrong_type(wrong):
    with pytest.raises(InvalidTypeError):
        is_storable(LLMResponse(content="Paris"), temperature=wrong)
    with pytest.raises(InvalidTypeError):
        is_storable(LLMResponse(content="Paris"), temperature=-1.0, max_temperature=wrong)


def test_a_temperature_that_is_not_finite():
    with pytest.raises(InvalidValueError):
        is_storable(LLMResponse(content="Paris"), temperature=float("nan"))


@pytest.mark.parametrize("wrong", [None, "Paris", {"content": "Paris"}])
def test_a_response_of_the_wrong_type(wrong):
    with pytest.raises(InvalidTypeError, match=f"not {type(wrong).__name__}"):
        is_storable(wrong, temperature=0.0)


def test_jitter_takes_away_at_most_its_part_and_adds_nothing():
    lives = [jittered(100.0, 0.25) for _ in range(2_000)]
    assert 75.0 <= min(lives) < 80.0
    assert 95.0 < max(lives) <= 100.0
    assert jittered(100.0, 0.0) == 100.0


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (-0.1, InvalidValueError),
        (1, InvalidValueError),
        (float("nan"), InvalidValueError),
        (True, InvalidTypeError),
        ("0.1", InvalidTypeError),
        (None, InvalidTypeError),
    ],
)
def test_what_is_no_jitter(bad, kind):
    for make in (RedisExactCache, AsyncRedisExactCache):
        with pytest.raises(kind, match="ttl_jitter"):
            make(ttl_jitter=bad)
