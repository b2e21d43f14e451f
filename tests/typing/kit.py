"""What type checkers make of the kit and of the values around it. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, NoReturn, assert_type

from pydantic import BaseModel

import ractogateway
from ractogateway import ChatConfig, LLMResponse, Message, RactoPrompt
from ractogateway import anthropic_developer_kit as claude
from ractogateway import google_developer_kit as gemini
from ractogateway import openai_developer_kit as gpt
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import ProviderError, ProviderRateLimited
from ractogateway.messages import CallReport
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    RateLimitDecision,
    RedisChatMemory,
    RedisExactCache,
    RedisRateLimiter,
)
from ractogateway.tools import Tool


class Place(BaseModel):
    name: str


PROMPT = RactoPrompt(role="r", aim="a", constraints=("c",), tone="t", output_format="o")
CONFIG = ChatConfig(
    user_message="q",
    prompt=PROMPT,
    temperature=0.0,
    max_tokens=256,
    history=[Message(role=gpt.MessageRole.USER, content="Hello!")],
    tools=[{"type": "function", "function": {"name": "f"}}],
    response_model=Place,
    attachments=[],
    extra={"seed": 7},
)
TOOLS = gpt.ToolRegistry()


@TOOLS.tool
def get_weather(city: str) -> str:
    return city


@TOOLS.tool(name="time", description="The time")
async def get_time(city: str) -> int:
    return len(city)


def tools_and_files(call: gpt.ToolCall, answer: LLMResponse) -> None:
    # A decorated function is still what it was.
    assert_type(get_weather("Oslo"), str)
    assert_type(ractogateway.ToolRegistry(on_error="raise").register(len), Tool)
    gpt.ToolRegistry(on_error=lambda call, error: f"{call.name}: {error}")
    assert_type(TOOLS.call(call), dict[str, Any])
    file = claude.RactoFile.from_path("a.png", max_bytes=1_000)
    assert_type(file, ractogateway.RactoFile)
    assert_type(gemini.RactoFile.from_bytes(b"a", name="a.txt").to_part(), dict[str, Any])
    raw: list[dict[str, Any]] = [{"type": "text", "text": "a"}]
    ChatConfig(user_message="q", tools=TOOLS, attachments=[file], tool_rounds=3, correction_retries=1)
    ChatConfig(user_message="q", tools=[TOOLS, {"type": "function"}], attachments=[file, {"type": "text"}])
    ChatConfig(user_message="q", tools=raw, attachments=raw, following=[*answer.messages, TOOLS.call(call)])
    assert_type(answer.messages, list[dict[str, Any]])
    assert_type(answer.usage + answer.usage, gpt.Usage)


async def awaited_tools(call: gpt.ToolCall) -> None:
    assert_type(await get_time("Oslo"), int)
    assert_type(await TOOLS.acall(call), dict[str, Any])


def ways_to_make_one() -> None:
    gpt.OpenAIDeveloperKit()
    gpt.OpenAIDeveloperKit("gpt-4o", api_key="k", base_url="http://localhost:8000/v1", default_prompt=PROMPT)
    gpt.OpenAIDeveloperKit(model="gpt-4o", exact_cache=ExactMatchCache(), cache_max_temperature=0.7)
    gpt.OpenAIDeveloperKit(model="gpt-4o", exact_cache=RedisExactCache())
    gpt.OpenAIDeveloperKit(model="gpt-4o", exact_cache=AsyncRedisExactCache())
    assert_type(gpt.Chat(model="gpt-4o"), gpt.OpenAIDeveloperKit)


def with_all_tools() -> None:
    config = ChatConfig(user_message="q", user_id="u", conversation_id="c")
    kit = gpt.Chat(rate_limiter=RedisRateLimiter(), memory=RedisChatMemory(), exact_cache=RedisExactCache())
    gpt.Chat(rate_limiter=AsyncRedisRateLimiter(), memory=AsyncRedisChatMemory(), exact_cache=AsyncRedisExactCache())
    claude.Chat("m", rate_limiter=RedisRateLimiter(), memory=AsyncRedisChatMemory())
    gemini.Chat("m", rate_limiter=AsyncRedisRateLimiter(), memory=RedisChatMemory())
    report = kit.chat(config).gateway
    assert_type(report, CallReport | None)
    if report is not None:
        assert_type(report.decision, RateLimitDecision | None)
        assert_type((report.settled_tokens, report.revision, report.provider_calls), tuple[int | None, int | None, int])


def blocking(kit: gpt.OpenAIDeveloperKit) -> None:
    assert_type(kit.chat(CONFIG), LLMResponse)
    for chunk in kit.stream(CONFIG):
        assert_type(chunk, gpt.StreamChunk)
    assert_type(kit.embed("text"), list[list[float]])
    assert_type(kit.embed(["one", "two"], model="m", dimensions=8, user_id="u"), list[list[float]])
    with kit as same:
        assert_type(same, gpt.OpenAIDeveloperKit)


async def awaited(kit: gpt.OpenAIDeveloperKit) -> None:
    assert_type(await kit.achat(CONFIG), LLMResponse)
    async for chunk in kit.astream(CONFIG):
        assert_type(chunk, gpt.StreamChunk)
    assert_type(await kit.aembed("text"), list[list[float]])
    async with kit as same:
        assert_type(same, gpt.OpenAIDeveloperKit)


async def other_providers(kit: claude.AnthropicDeveloperKit) -> None:
    claude.AnthropicDeveloperKit("m", api_key="k", base_url="http://h", default_prompt=PROMPT, exact_cache=None)
    assert_type(claude.Chat(model="m", exact_cache=RedisExactCache()), claude.AnthropicDeveloperKit)
    assert_type(kit.chat(CONFIG), LLMResponse)
    assert_type(await kit.achat(CONFIG), LLMResponse)
    for chunk in kit.stream(CONFIG):
        assert_type(chunk, claude.StreamChunk)
    async for chunk in kit.astream(CONFIG):
        assert_type(chunk, claude.StreamChunk)
    with kit as same:
        assert_type(same, claude.AnthropicDeveloperKit)


async def google(kit: gemini.GoogleDeveloperKit) -> None:
    gemini.GoogleDeveloperKit("m", api_key="k", base_url="http://h", default_prompt=PROMPT, exact_cache=None)
    assert_type(gemini.Chat(model="m"), gemini.GoogleDeveloperKit)
    assert_type(await kit.achat(CONFIG), LLMResponse)
    assert_type(kit.embed(["one", "two"], dimensions=8), list[list[float]])
    assert_type(await kit.aembed("text"), list[list[float]])


def no_embeddings(kit: claude.AnthropicDeveloperKit) -> NoReturn:
    kit.embed("text")


def values(chunk: gpt.StreamChunk, call: gpt.ToolCallResult, error: ProviderError) -> None:
    assert_type((chunk.delta, chunk.text, chunk.is_final), tuple[str, str, bool])
    assert_type(chunk.response, LLMResponse | None)
    assert_type((call.id, call.name, call.arguments), tuple[str, str, dict[str, Any]])
    assert_type(error.status, int | None)
    assert_type(error.retry_after_seconds, float | None)
    assert_type(PROMPT.compile(), str)
    assert_type(ractogateway.LLMResponse(content="x"), gpt.LLMResponse)
    assert_type(ractogateway.redis.RedisExactCache(), RedisExactCache)


def handled(kit: gpt.OpenAIDeveloperKit) -> float | None:
    try:
        kit.chat(CONFIG)
    except ProviderRateLimited as refused:
        return refused.retry_after_seconds
    return None


# Both checkers complain of an ignore that nothing needs, so each of these lines is known to be refused.
def wrong_on_purpose(kit: gpt.OpenAIDeveloperKit) -> None:
    kit.chat("q")  # type: ignore[arg-type]
    gpt.OpenAIDeveloperKit(default_prompt="p")  # type: ignore[arg-type]
    gpt.OpenAIDeveloperKit(rate_limiter=RedisChatMemory())  # type: ignore[arg-type]
    gpt.OpenAIDeveloperKit(memory=RedisRateLimiter())  # type: ignore[arg-type]
    gpt.ToolRegistry(on_error="ignore")  # type: ignore[arg-type]
    gpt.RactoFile("text")  # type: ignore[arg-type]
