"""What users configure things with: wrong values raise from our own tree and are never shown."""

from __future__ import annotations

import math
import typing

import pytest
from secrecy import SECRET_PROMPT, SECRET_USER

from ractogateway.errors import InvalidTypeError, InvalidValueError, RactoGatewayError
from ractogateway.messages import ChatConfig
from ractogateway.prompts import RactoPrompt
from ractogateway.redis import (
    AsyncRedisExactCache,
    CacheRequest,
    ChatMemoryConfig,
    RateLimitCharge,
    RateLimitConfig,
    RateLimitParent,
    RedisExactCache,
    RedisOptions,
)

SECRET = "redis://user:hunter2@host"

NOT_NUMBERS = [True, "5", SECRET, None, b"1", [1]]
NOT_SECONDS = [0, -1, math.nan, math.inf, 1e308, 10**400]


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("field", ["window_seconds", "max_tokens_per_minute"])
def test_a_limit_takes_numbers_only(field, value):
    with pytest.raises(InvalidTypeError, match=field) as caught:
        RateLimitConfig(**{field: value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", NOT_SECONDS)
@pytest.mark.parametrize(
    ("make", "field"),
    [
        (RateLimitConfig, "window_seconds"),
        (ChatMemoryConfig, "ttl_seconds"),
        (RedisOptions, "timeout_seconds"),
        (RedisOptions, "connect_timeout_seconds"),
        (RedisOptions, "stall_seconds"),
        (RedisOptions, "breaker_seconds"),
    ],
)
def test_seconds_that_make_no_sense(make, field, value):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=field):
        make(**{field: value})


@pytest.mark.parametrize("value", [0, -5, 2**53, 1.5])
def test_token_budgets_that_make_no_sense(value):
    with pytest.raises((InvalidValueError, InvalidTypeError), match="max_tokens_per_minute"):
        RateLimitConfig(max_tokens_per_minute=value)


@pytest.mark.parametrize(
    "fields",
    [
        {"user_message": b"x"},
        {"user_message": "x", "temperature": True},
        {"user_message": "x", "temperature": "0"},
        {"user_message": "x", "max_tokens": 0},
        {"user_message": "x", "history": [{"role": SECRET, "content": "x"}]},
        {"user_message": "x", "history": SECRET},
        {"user_message": "x", "unknown": SECRET},
        {},
    ],
)
def test_requests_that_make_no_sense(fields):
    with pytest.raises(RactoGatewayError) as caught:
        ChatConfig(**fields)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_prompts_need_a_role_and_an_aim():
    with pytest.raises(InvalidValueError, match="role"):
        RactoPrompt(role="", aim="x")
    with pytest.raises(InvalidValueError, match="aim"):
        RactoPrompt(role="x")


def test_integers_are_seconds_too():
    assert RateLimitConfig(window_seconds=60) == RateLimitConfig()
    assert RedisOptions(timeout_seconds=1).timeout_seconds == 1.0
    assert ChatConfig(user_message="x", temperature=1).temperature == 1.0


@pytest.mark.parametrize(
    "url",
    ["redis://h/prod", "redis://h/1x", "rediss://h/²", "redis://h:0x50", "http://h", "", "redis:/h", SECRET + ":x"],
)
def test_urls_that_mean_nothing(url):
    for make in (RedisExactCache, AsyncRedisExactCache):
        with pytest.raises(InvalidValueError, match="url") as caught:
            make(url=url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("face", [RedisExactCache, AsyncRedisExactCache])
def test_annotations_can_be_read_at_run_time(face):
    """Frameworks that inject dependencies do so."""
    assert "client" in typing.get_type_hints(face.__init__)


def test_values_do_not_show_whose_they_are():
    parent = RateLimitParent(SECRET_USER, RateLimitConfig())
    charge = RateLimitCharge(SECRET_USER, 5, SECRET_USER, [parent])
    request = CacheRequest(SECRET_PROMPT, SECRET_PROMPT, "gpt-4o", 0.0, 256, {"history": [SECRET_PROMPT]})
    shown = repr([charge, parent, request])
    assert "secret-" not in shown
    assert "tokens=5" in shown
    assert "gpt-4o" in shown
