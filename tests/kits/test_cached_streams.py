"""Streams and the cache: what is stored of them and when, and what comes back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from secrecy import SECRET_PROMPT

from ractogateway.cache import ExactMatchCache
from ractogateway.openai_developer_kit import ChatConfig, FinishReason, LLMResponse, StreamChunk, Usage

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
HELLO = ChatConfig(user_message=f"Hello {SECRET_PROMPT}")


class Counting(ExactMatchCache):
    """Remembers what was put."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[LLMResponse] = []

    def put(self, *args, **named):
        self.puts.append(args[-1])
        super().put(*args, **named)


def chunks_of(kit, config, method) -> list[StreamChunk]:
    if method == "stream":
        return list(kit.stream(config))

    async def consume() -> list[StreamChunk]:
        return [chunk async for chunk in kit.astream(config)]

    return asyncio.run(consume())


both = pytest.mark.parametrize("method", ["stream", "astream"])


@both
@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("stand-in", HELLO),
        ("think", HELLO),
        ("stand-in", ChatConfig(user_message="Use get_weather", tools=[TOOL])),
        ("bad-arguments", ChatConfig(user_message="Use get_weather", tools=[TOOL])),
    ],
    ids=["text", "reasoning", "tool call", "tool call with broken arguments"],
)
def test_a_stream_is_stored_once_and_comes_back_as_it_was(make_kit, endpoint, method, model, config):
    cache = Counting()
    kit = make_kit(model, exact_cache=cache)
    first = chunks_of(kit, config, method)
    for again in ("stream", "astream"):
        replayed = chunks_of(kit, config, again)
        for part in ("delta", "thinking_delta"):
            assert "".join(getattr(chunk, part) for chunk in replayed) == "".join(
                getattr(chunk, part) for chunk in first
            )
        assert all(not chunk.is_final for chunk in replayed[:-1])
        old, new = first[-1], replayed[-1]
        assert (new.text, new.is_final, new.finish_reason) == (old.text, True, old.finish_reason)
        assert new.response.tool_calls == old.response.tool_calls
        assert (new.response.content, new.response.thinking) == (old.response.content, old.response.thinking)
        assert (new.response.cached, new.response.usage) == (True, Usage())
        assert new.response.saved_usage == old.response.usage != Usage()
    assert kit.chat(config).cached
    assert endpoint.requests == len(cache.puts) == 1


@both
def test_what_was_said_by_chat_is_streamed_and_the_other_way_round(make_kit, asks, endpoint, method):
    for order in (("chat", method), (method, "chat"), (method, "achat")):
        kit = make_kit(exact_cache=ExactMatchCache())
        first, second = (asks[name](kit, HELLO) for name in order)
        assert (first.cached, second.cached) == (False, True)
        assert first.content == second.content
    assert endpoint.requests == 3


@both
def test_a_stream_that_was_cut_at_its_limit_is_not_stored(make_kit, method):
    cache = Counting()
    kit = make_kit(exact_cache=cache)
    last = chunks_of(kit, ChatConfig(user_message="Hello", max_tokens=2), method)[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert cache.puts == []


def test_leaving_before_the_last_chunk_stores_nothing(make_kit):
    cache = Counting()
    kit = make_kit(exact_cache=cache)
    whole = chunks_of(kit, HELLO, "stream")
    for taken in range(len(whole)):
        cache.clear()
        cache.puts.clear()
        stream = kit.stream(HELLO)
        for _ in range(taken):
            assert not next(stream).is_final
        stream.close()
        assert cache.puts == []


def test_leaving_before_the_last_chunk_stores_nothing_in_async_code(make_kit):
    cache = Counting()
    kit = make_kit(exact_cache=cache)
    whole = chunks_of(kit, HELLO, "astream")

    async def main() -> None:
        for taken in range(len(whole)):
            cache.clear()
            cache.puts.clear()
            async with aclosing(kit.astream(HELLO)) as stream:
                for _ in range(taken):
                    assert not (await anext(stream)).is_final
            assert cache.puts == []

    asyncio.run(main())


def test_what_a_caller_throws_into_a_stream_stores_nothing(make_kit):
    cache = Counting()
    stream = make_kit(exact_cache=cache).stream(HELLO)
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError())
    assert cache.puts == []


@both
def test_a_second_stream_does_not_wait_for_the_first(make_kit, endpoint, method):
    """The decision: whoever streams wants the first words soon, and the first stream's reader may never go on."""
    cache = Counting()
    kit = make_kit(exact_cache=cache)
    idle = kit.stream(HELLO)
    next(idle)  # and its reader takes a break
    second = chunks_of(kit, HELLO, method)
    assert second[-1].response.cached is False
    assert endpoint.requests == 2
    assert chunks_of(kit, HELLO, method)[-1].response.cached is True
    rest = list(idle)
    assert rest[-1].response.content == second[-1].response.content
    assert chunks_of(kit, HELLO, method)[-1].response.cached is True
    assert endpoint.requests == 2


@both
def test_a_stream_does_not_wait_for_a_chat_under_way(make_kit, endpoint, asks, method):
    kit = make_kit("slow-200", exact_cache=ExactMatchCache())

    async def main() -> None:
        chat = asyncio.create_task(kit.achat(HELLO))
        while endpoint.requests == 0:  # noqa: ASYNC110 - counted in another thread
            await asyncio.sleep(0.001)
        streamed = await asyncio.to_thread(asks[method], kit, HELLO)
        assert streamed.cached is False
        await chat

    asyncio.run(main())
    assert endpoint.requests == 2


def test_a_stored_answer_cannot_be_changed_by_who_reads_its_replay(make_kit):
    kit = make_kit(exact_cache=ExactMatchCache())
    config = ChatConfig(user_message="Use get_weather", tools=[TOOL])
    for _ in range(3):
        response = chunks_of(kit, config, "stream")[-1].response
        assert [call.name for call in response.tool_calls] == ["get_weather"]
        response.tool_calls.clear()
