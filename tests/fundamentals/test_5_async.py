"""The same tools for ``await``, one idea at a time. Read from top to bottom."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio

from ractogateway import LLMResponse
from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.errors import BlockingCallWarning
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    RateLimitConfig,
    RedisExactCache,
    RedisRateLimiter,
)

pytestmark = pytest.mark.usefixtures("patience")

REQUEST = ("What is the capital of France?", "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="Paris.")


@pytest.mark.anyio
async def test_the_methods_are_the_same(any_server):
    cache = AsyncRedisExactCache(url=any_server.url)
    await cache.put(*REQUEST, ANSWER)
    assert (await cache.get(*REQUEST)).content == "Paris."
    memory = AsyncRedisChatMemory(url=any_server.url)
    await memory.append("c", "user", "Hello!")
    assert await memory.count("c") == 1


@pytest.mark.anyio
async def test_what_cannot_be_awaited_has_another_form(any_server):
    cache = AsyncRedisExactCache(url=any_server.url)
    await cache.put(*REQUEST, ANSWER)
    assert await cache.size() == 1, "len(cache) of the blocking face"
    assert (await cache.stats()).size == 1, "cache.stats of the blocking face"


@pytest.mark.anyio
async def test_many_tasks_share_one_budget(any_server):
    limiter = AsyncRedisRateLimiter(url=any_server.url, config=RateLimitConfig(max_tokens_per_minute=1_000))
    decisions = await asyncio.gather(*(limiter.consume("u-42", 100) for _ in range(50)))
    assert sum(decision.allowed for decision in decisions) == 10


def test_one_object_serves_one_event_loop_after_another(any_server):
    cache = AsyncRedisExactCache(url=any_server.url)
    asyncio.run(cache.put(*REQUEST, ANSWER))
    assert asyncio.run(cache.get(*REQUEST)).content == "Paris."


def test_every_blocking_face_has_its_async_core(any_server):
    limiter = RedisRateLimiter(url=any_server.url, config=RateLimitConfig(max_tokens_per_minute=1_000))
    assert limiter.check_and_consume("u-42", 400)
    assert asyncio.run(limiter.aio.get_remaining("u-42")) == 600


@pytest.mark.anyio
async def test_a_blocking_call_in_a_running_loop_works_and_warns(any_server):
    limiter = RedisRateLimiter(url=any_server.url)
    with pytest.warns(BlockingCallWarning, match=r"\.aio"):
        assert limiter.check_and_consume("u-42", 400)


@pytest.mark.anyio
async def test_a_client_of_yours_is_used_and_never_closed(any_server):
    async with redis.asyncio.Redis.from_url(any_server.url) as client:
        async with AsyncRedisExactCache(client=client) as cache:
            await cache.put(*REQUEST, ANSWER)
        assert await client.dbsize() > 0


@pytest.mark.anyio
async def test_closing_is_optional_and_a_closed_tool_opens_again(any_server):
    cache = AsyncRedisExactCache(url=any_server.url)
    await cache.put(*REQUEST, ANSWER)
    await cache.aclose()
    assert await cache.get(*REQUEST) is not None


@pytest.mark.anyio
async def test_a_kit_awaits_whichever_face_it_was_given(any_server):
    with StandInEndpoint(api_key="a key") as model:
        kit = gpt.OpenAIDeveloperKit(
            base_url=model.base_url, api_key="a key", exact_cache=RedisExactCache(url=any_server.url)
        )
        async with kit:
            first = await kit.achat(gpt.ChatConfig(user_message="Where is the Louvre?"))
            chunks = [chunk async for chunk in kit.astream(gpt.ChatConfig(user_message="Where is the Louvre?"))]
        assert chunks[-1].response.cached
        assert "".join(chunk.delta for chunk in chunks) == first.content
        assert model.requests == 1
