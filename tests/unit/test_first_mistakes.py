"""What everybody tries once: a clear error, or what was meant."""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import ExitStack

import pytest
import redis
import redis.asyncio
from pydantic import BaseModel, TypeAdapter
from secrecy import SECRET_USER

from ractogateway.anthropic_developer_kit import AnthropicDeveloperKit
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import InvalidTypeError
from ractogateway.google_developer_kit import GoogleDeveloperKit
from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit, RactoPrompt
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    ChatMemoryConfig,
    PendingReservation,
    RateLimitConfig,
    RateLimitDecision,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

NOWHERE = "redis://127.0.0.1:1"
ASYNC = [AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory]
BLOCKING = [RedisExactCache, RedisRateLimiter, RedisChatMemory]
KITS = [OpenAIDeveloperKit, AnthropicDeveloperKit, GoogleDeveloperKit]


@pytest.mark.parametrize("kind", ASYNC)
def test_with_in_the_place_of_async_with(kind):
    with pytest.raises(InvalidTypeError, match=rf"^{kind.__name__} is for async code: use `async with`"), kind(NOWHERE):
        pytest.fail("it was entered")


def test_with_in_the_place_of_async_with_for_a_reservation():
    pending = AsyncRedisRateLimiter(NOWHERE).reserve(SECRET_USER, 1)
    assert isinstance(pending, PendingReservation)
    with pytest.raises(TypeError, match="use `async with`"), pending:
        pytest.fail("it was entered")
    with pytest.raises(TypeError, match="use `async with`"):
        ExitStack().enter_context(pending)


@pytest.mark.parametrize("make", [*ASYNC, *BLOCKING, *KITS, ExactMatchCache])
@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_tools_and_kits_are_made_anew_in_each_process(make, how):
    tool = make() if make is ExactMatchCache else make("m") if make in KITS else make(NOWHERE)
    with pytest.raises(
        InvalidTypeError, match=rf"^{make.__name__} objects cannot be pickled or copied, .* in each process"
    ):
        how(tool)


def test_a_subclass_that_knows_better_may_say_how_it_is_made_anew():
    assert pickle.loads(pickle.dumps(Remade(5)))._max_size == 5


class Remade(ExactMatchCache):
    def __reduce__(self):
        return Remade, (self._max_size,)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RedisRateLimiter(client=redis.Redis), "a RedisCluster, not the class Redis"),
        (lambda: AsyncRedisRateLimiter(client=redis.asyncio.Redis), "RedisCluster, not the class Redis"),
        (lambda: RedisRateLimiter(config=RateLimitConfig), "a RateLimitConfig, not the class RateLimitConfig"),
        (lambda: RedisChatMemory(config=ChatMemoryConfig), "a ChatMemoryConfig, not the class ChatMemoryConfig"),
        (lambda: RedisChatMemory(options=RedisOptions), "a RedisOptions, not the class RedisOptions"),
        (lambda: RedisChatMemory(config=RateLimitConfig()), "a ChatMemoryConfig, not RateLimitConfig"),
        (lambda: OpenAIDeveloperKit(default_prompt=RactoPrompt), "or None, not the class RactoPrompt"),
        (lambda: OpenAIDeveloperKit().chat(ChatConfig), "a ChatConfig, not the class ChatConfig"),
    ],
)
def test_a_class_in_the_place_of_an_instance(make, told):
    with pytest.raises(InvalidTypeError, match=told):
        make()


@pytest.mark.parametrize("seconds", [0.0, 3.25, math.inf])
def test_a_decision_survives_json(seconds):
    decisions = TypeAdapter(RateLimitDecision)
    decision = RateLimitDecision(False, 10, 10, seconds, 0.0, "tokens_per_window")
    written = decisions.dump_json(decision)
    json.loads(written, parse_constant=pytest.fail)
    assert decisions.validate_json(written) == decision
    assert decisions.validate_python(decisions.dump_python(decision, mode="json")) == decision
    assert decisions.dump_python(decision)["retry_after_seconds"] == seconds


def test_configurations_have_json_schemas():
    class Settings(BaseModel):
        limits: RateLimitConfig
        memory: ChatMemoryConfig
        options: RedisOptions
        request: ChatConfig

    known = Settings.model_json_schema()["$defs"]
    fields = {"max_turns", "max_tokens", "ttl_seconds", "key_prefix", "max_message_bytes"}
    assert set(known["ChatMemoryConfig"]["properties"]) == fields, "functions are none of JSON's"
    assert known["RateLimitConfig"]["properties"]["key_prefix"]["type"] == "string"


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_message_that_says_nothing_is_not_appended(role):
    with pytest.raises(InvalidTypeError, match=r"^content must be a str or a list of content parts"):
        RedisChatMemory(NOWHERE).append("c", role, None)
