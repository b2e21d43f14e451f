"""Rounds of tools with all three tools of this library around them, on a real server."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from kit_wires import WIRES, Person
from wire_endpoints import SIGNATURE

from ractogateway import ChatConfig, RactoFile, ToolRegistry
from ractogateway.errors import InvalidValueError, StructuredOutputError
from ractogateway.redis import (
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisRateLimiter,
)

pytestmark = pytest.mark.usefixtures("patience")

BUDGET = 1_000_000


@pytest.fixture
def around(any_server) -> dict[str, Any]:
    """What a kit is given, on keys of its own."""
    prefix = uuid4().hex
    return {
        "exact_cache": RedisExactCache(any_server.url, key_prefix=f"ractogateway:exact:{prefix}", ttl_seconds=60),
        "rate_limiter": RedisRateLimiter(
            any_server.url,
            config=RateLimitConfig(max_tokens_per_minute=BUDGET, key_prefix=f"ractogateway:ratelimit:{prefix}"),
        ),
        "memory": RedisChatMemory(any_server.url, namespace=prefix),
    }


def weather(answer: object = "rain", **options: Any) -> ToolRegistry:
    tools = ToolRegistry(**options)

    @tools.tool
    async def get_weather(city: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return tools


def config_of(tools: ToolRegistry, *, message: str = "Use get_weather", rounds: int = 2, **more: Any) -> ChatConfig:
    ids = {"user_id": "u", "conversation_id": "c"}
    return ChatConfig(user_message=message, tools=tools, tool_rounds=rounds, max_tokens=500, **{**ids, **more})


def roles(around: dict[str, Any]) -> list[str]:
    return [message["role"] for message in around["memory"].get_history("c")]


def spent(around: dict[str, Any]) -> int:
    return BUDGET - around["rate_limiter"].get_remaining("u")


TURN = ["user", "assistant", "tool", "assistant"]


def test_a_turn_is_remembered_whole_and_paid_once(ask, make, wire, endpoint, around):
    kit = make("think-tools", **around)
    first = ask(kit, config_of(weather()))
    assert roles(around) == TURN
    assert around["memory"].get_history("c")[1:] == first.messages
    assert spent(around) == first.usage.total_tokens
    assert first.gateway.provider_calls == endpoint.requests == 2
    assert first.gateway.settled_tokens == first.usage.total_tokens

    second = ask(kit, config_of(weather(), message="And now? get_weather"))
    assert roles(around) == TURN * 2
    assert spent(around) == first.usage.total_tokens + second.usage.total_tokens
    before = json.dumps(endpoint.seen[2].body)
    assert "rain" in before
    assert (SIGNATURE in before) == bool(wire.cached), "what the stand-ins that sign had signed"


def test_a_turn_out_of_the_cache_is_remembered_and_costs_nothing(ask, make, endpoint, around):
    kit = make("think-tools", **around)
    first = ask(kit, config_of(weather()))
    again = ask(kit, config_of(weather(), conversation_id="d"))
    assert (again.cached, again.gateway.provider_calls, endpoint.requests) == (True, 0, 2)
    assert spent(around) == first.usage.total_tokens
    assert around["memory"].get_history("d") == around["memory"].get_history("c")


def test_calls_for_the_caller_are_no_end_of_a_turn(ask, make, around):
    kit, tools = make("think-tools", **around), weather()
    config = config_of(tools, rounds=0)
    asked = ask(kit, config)
    assert [call.name for call in asked.tool_calls] == ["get_weather"]
    assert (roles(around), asked.gateway.revision) == ([], None)

    following = [*asked.messages, {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}]
    answer = ask(kit, config.model_copy(update={"following": following}))
    assert roles(around) == TURN
    assert around["memory"].get_history("c")[1:-1] == following
    assert spent(around) == asked.usage.total_tokens + answer.usage.total_tokens


def test_a_turn_that_fails_between_its_rounds_leaves_nothing_but_the_bill(ask, make, around):
    kit = make(**around)
    with pytest.raises(ZeroDivisionError):
        ask(kit, config_of(weather(ZeroDivisionError(), on_error="raise")))
    assert roles(around) == []
    single = ask(make(), config_of(weather(), rounds=0, user_id=None, conversation_id=None))
    assert spent(around) == single.usage.total_tokens


def test_corrections_are_paid_and_not_remembered(ask, make, endpoint, around):
    config = config_of(weather(), message="Who?", response_model=Person)
    answer = ask(make("misfit-once", **around), config.model_copy(update={"correction_retries": 1}))
    assert roles(around) == ["user", "assistant"]
    assert around["memory"].get_history("c")[1]["content"] == answer.content
    assert spent(around) == answer.usage.total_tokens
    assert endpoint.requests == 2
    with pytest.raises(StructuredOutputError):
        ask(make("misfit", **around), config.model_copy(update={"correction_retries": 1}))
    assert roles(around) == ["user", "assistant"]
    assert spent(around) > answer.usage.total_tokens


def test_a_file_is_remembered_with_its_question(ask, make, endpoint, around):
    kit = make(**around)
    files = [RactoFile(b"\x89PNG\r\n\x1a\n", "a.png"), RactoFile(b"a text")]
    ask(kit, config_of(weather(), message="What is this?", attachments=files))
    ask(kit, config_of(weather(), message="And?"))
    kept = around["memory"].get_history("c")[0]["content"]
    assert [part["type"] for part in kept] == ["text", "image_url", "text"]
    assert "iVBORw0KGg" in json.dumps(endpoint.seen[-1].body)


def test_a_history_beside_a_conversation_is_refused(ask, make, endpoint, around):
    config = config_of(weather(), history=[{"role": "user", "content": "Hi"}])
    with pytest.raises(InvalidValueError, match="following"):
        ask(make(**around), config)
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_conversation_moves_from_provider_to_provider(asks, make, around):
    """With what each of them signed for itself."""
    tools = weather()
    for _ in range(2):
        for wire in WIRES.values():
            with wire.endpoint() as server:
                options = {"base_url": server.base_url, "api_key": server.api_key, **around}
                with wire.kit("think-tools", **options) as kit:
                    assert asks["chat"](kit, config_of(tools)).content
    assert roles(around) == TURN * 6
