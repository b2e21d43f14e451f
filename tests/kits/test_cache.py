"""`exact_cache=` in all four methods: what is shared, what is not, and what happens when the cache misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from contextlib import nullcontext
from itertools import product

import anyio
import pytest
from pydantic import BaseModel

from ractogateway._kit.request import identify, snapshot
from ractogateway.cache import ExactMatchCache
from ractogateway.errors import InvalidTypeError, StoreTimeout
from ractogateway.openai_developer_kit import ChatConfig, LLMResponse, OpenAIDeveloperKit, RactoPrompt, ToolCall, Usage
from ractogateway.openai_developer_kit.address import resolve

METHODS = ("chat", "achat", "stream", "astream")
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
PROMPT = RactoPrompt(role="You are a clerk.", aim="Answer letters.")


class Person(BaseModel):
    name: str
    age: int


class Animal(BaseModel):
    name: str
    legs: int


class AsyncCore:
    """An `ExactMatchCache` with the methods of an async core."""

    def __init__(self) -> None:
        self.inner = ExactMatchCache()

    async def get(self, *args, context=None):
        await asyncio.sleep(0)
        return self.inner.get(*args, context=context)

    async def put(self, *args, context=None, ttl_seconds=None):
        await asyncio.sleep(0)
        self.inner.put(*args, context=context, ttl_seconds=ttl_seconds)


class TwoFaces(ExactMatchCache):
    """A blocking cache with an async core beside it, as `RedisExactCache` is; each face has entries of its own here."""

    aio: AsyncCore = None

    def __init__(self) -> None:
        super().__init__()
        self.aio = AsyncCore()


class Broken:
    """A cache that fails in every call."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get(self, *_args, **_kwargs):
        raise self.error

    put = get


class BrokenCore:
    """The same as an async core."""

    async def get(self, *_args, **_kwargs):
        raise StoreTimeout("too slow", may_have_applied=False)

    put = get


# -- hits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), list(product(METHODS, METHODS)))
def test_an_answer_got_by_one_method_is_a_hit_for_every_other(make_kit, endpoint, asks, first, second):
    kit = make_kit("think", exact_cache=ExactMatchCache())
    config = ChatConfig(user_message="Hello", prompt=PROMPT)

    paid = asks[first](kit, config)
    hit = asks[second](kit, config)

    assert endpoint.requests == 1
    assert (hit.content, hit.thinking, hit.finish_reason) == (paid.content, paid.thinking, paid.finish_reason)
    assert (hit.cached, hit.usage, hit.saved_usage, hit.raw) == (True, Usage(), paid.usage, None)
    assert paid.cached is False


def test_a_hit_is_replayed_as_a_stream(make_kit):
    stored = LLMResponse(content="Über uns " * 400, thinking="Hm. " * 50, tool_calls=[ToolCall(id="1", name="look")])
    cache = ExactMatchCache()
    kit = OpenAIDeveloperKit(model="m", exact_cache=cache)
    cache.put("Hello", "", "m", 0.0, 4096, stored)

    *pieces, last = kit.stream(ChatConfig(user_message="Hello"))

    assert 10 < len(pieces) <= 128
    assert "".join(chunk.thinking_delta for chunk in pieces) == stored.thinking
    assert "".join(chunk.delta for chunk in pieces) == pieces[-1].text == last.text == stored.content
    assert (last.is_final, last.delta, last.response.cached) == (True, "", True)
    assert last.response.tool_calls == stored.tool_calls


def test_a_plain_request_meets_the_five_argument_form_and_needs_no_key(ask, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    cache = ExactMatchCache()
    cache.put("Hello", PROMPT.compile(), "gpt-4o", 0.0, 4096, LLMResponse(content="Hi!"))

    answer = ask(OpenAIDeveloperKit(exact_cache=cache), ChatConfig(user_message="Hello", prompt=PROMPT))

    assert answer.content == "Hi!"
    assert answer.cached is True


def test_a_cached_answer_does_not_even_import_the_sdk():
    script = """
import asyncio, sys
from ractogateway import openai_developer_kit as gpt
from ractogateway.cache import ExactMatchCache
cache = ExactMatchCache()
cache.put("Hello", "", "gpt-4o", 0.0, 4096, gpt.LLMResponse(content="Hi!"))
kit = gpt.Chat(exact_cache=cache)
config = gpt.ChatConfig(user_message="Hello")
print(kit.chat(config).content, asyncio.run(kit.achat(config)).content, [*kit.stream(config)][-1].text)
print({"openai", "httpx", "httpx2"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "Hi! Hi! Hi!\nset()\n"


def test_a_structured_hit_is_an_instance_again(ask, make_kit, endpoint):
    cache = ExactMatchCache()
    config = ChatConfig(user_message="Who?", response_model=Person)
    paid = ask(make_kit(exact_cache=cache), config)

    class Older(Person):
        """The same JSON schema but for its name, so this is another request."""

    context = {"response_model": Person, "base_url": endpoint.base_url}
    assert cache.get("Who?", "", "stand-in", 0.0, 4096, context=context).parsed is None  # only its text is stored
    hit = ask(make_kit(exact_cache=cache), config)
    assert (type(hit.parsed), hit.parsed, hit.cached) == (Person, paid.parsed, True)
    assert ask(make_kit(exact_cache=cache), config.model_copy(update={"response_model": Older})).cached is False
    assert endpoint.requests == 2


def test_a_stored_answer_that_fits_no_more_is_a_miss(ask, make_kit, endpoint):
    cache = ExactMatchCache()
    config = ChatConfig(user_message="Who?", response_model=Person)
    context = {"response_model": Person, "base_url": endpoint.base_url}
    cache.put("Who?", "", "stand-in", 0.0, 4096, LLMResponse(content='{"name": "Ann"}'), context=context)

    answer = ask(make_kit(exact_cache=cache), config)

    assert cache.stats.hits == 1
    assert (answer.cached, type(answer.parsed)) == (False, Person)


def test_changing_an_answer_does_not_change_the_stored_one(ask, make_kit):
    class Keeping:
        """A cache that keeps what it is given, without a copy."""

        kept = None

        def get(self, *_args, **_kwargs):
            return self.kept

        def put(self, *args, **_kwargs):
            self.kept = args[-1]

    cache = Keeping()
    kit = make_kit(exact_cache=cache)
    config = ChatConfig(user_message="Use get_weather", tools=[TOOL])
    ask(kit, config).tool_calls.clear()

    hit = ask(kit, config)
    assert [call.name for call in hit.tool_calls] == ["get_weather"]
    assert (hit.cached, hit.usage) == (True, Usage())  # even though this cache does not mark its hits
    assert cache.kept.raw is None


# -- what tells requests apart -----------------------------------------------------------------------------------------

VARIANTS = [
    {},
    {"user_message": "Hello!"},
    {"prompt": PROMPT},
    {"temperature": -0.0, "max_tokens": 4095},
    {"history": [{"role": "user", "content": "a"}]},
    {"history": [{"role": "assistant", "content": "a"}]},
    {"history": [{"role": "user", "content": "a", "name": "Ann"}]},
    {"history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
    {"tools": [TOOL]},
    {"tools": [TOOL, TOOL]},
    {"response_model": Person},
    {"response_model": Animal},
    {"attachments": [{"type": "text", "text": "a"}]},
    {"extra": {"top_p": 0.5}},
    {"extra": {"top_p": 0.6}},
    {"extra": {"seed": 1}},
    {"extra": {"user": "ann"}},  # away from OpenAI's addresses nothing is known to be without influence
    {"extra": {"extra_headers": {"x-tenant": "a"}}},
    {"extra": {"extra_headers": {"x-tenant": "b"}}},
    {"extra": {"extra_query": {"version": "2"}}},
]


def test_requests_that_differ_in_anything_share_nothing(make_kit, endpoint):
    cache = ExactMatchCache()
    kit = make_kit(exact_cache=cache)
    configs = [ChatConfig(**{"user_message": "Hello", **variant}) for variant in VARIANTS]

    for config in configs:
        assert kit.chat(config).cached is False
    assert len(cache) == endpoint.requests == len(VARIANTS)
    assert all(kit.chat(config).cached for config in configs)


def test_another_model_or_server_shares_nothing(make_kit, endpoint):
    cache = ExactMatchCache()
    config = ChatConfig(user_message="Hello")
    elsewhere = endpoint.base_url.replace("127.0.0.1", "localhost")

    for options in ({}, {"model": "other"}, {"base_url": elsewhere}):
        assert make_kit(exact_cache=cache, **options).chat(config).cached is False
    assert make_kit(exact_cache=cache, base_url=elsewhere + "/").chat(config).cached is True


@pytest.mark.parametrize(
    "same",
    [
        {"tools": []},
        {"history": []},
        {"extra": {"timeout": 30}},
        {"extra": {"extra_headers": {"Traceparent": "00-1", "X-Request-Id": "7"}}},
        {"extra": {"extra_body": {}}},
    ],
)
def test_what_cannot_shape_the_answer_does_not_tell_requests_apart(make_kit, same):
    kit = make_kit(exact_cache=ExactMatchCache())
    kit.chat(ChatConfig(user_message="Hello"))

    assert kit.chat(ChatConfig(user_message="Hello", **same)).cached is True


def test_the_case_of_a_header_does_not_tell_requests_apart(make_kit):
    kit = make_kit(exact_cache=ExactMatchCache())
    kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": {"X-Tenant": "a"}}))

    assert kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": {"x-tenant": "a"}})).cached is True


def test_extra_body_says_the_same_as_extra(make_kit):
    kit = make_kit(exact_cache=ExactMatchCache())
    kit.chat(ChatConfig(user_message="Hello", extra={"top_k": 5}))

    assert kit.chat(ChatConfig(user_message="Hello", extra={"extra_body": {"top_k": 5}})).cached is True


@pytest.mark.parametrize(
    ("url", "key", "limit_name"),
    [
        (None, None, "max_completion_tokens"),
        ("https://api.openai.com/v1/", None, "max_completion_tokens"),
        ("HTTPS://API.OpenAI.com/v1", None, "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("http://api.openai.com/v1", "http://api.openai.com/v1", "max_completion_tokens"),
        ("http://User@Host:8000/V1/", "http://User@host:8000/V1", "max_tokens"),
        ("https://notapi.openai.com/v1", "https://notapi.openai.com/v1", "max_tokens"),
    ],
)
def test_the_address_decides_what_is_keyed_and_what_is_sent(monkeypatch, url, key, limit_name):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    address = resolve(url)

    assert (address.key, address.limit_name) == (key, limit_name)
    assert ("user" in address.silent) is (limit_name == "max_completion_tokens")


def test_the_environment_may_name_the_address(monkeypatch, make_kit, endpoint):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    cache = ExactMatchCache()

    assert make_kit(base_url=None, exact_cache=cache).chat(ChatConfig(user_message="Hello")).cached is False
    assert make_kit(exact_cache=cache).chat(ChatConfig(user_message="Hello")).cached is True


def test_at_openai_who_asks_does_not_tell_requests_apart():
    address = resolve("https://api.openai.com/v1")
    extra = {"user": "ann", "metadata": {"team": "a"}, "service_tier": "flex", "extra_body": {"store": True}}

    def context(extra):
        config = ChatConfig(user_message="Hello", extra=extra)
        identity = identify(config, model="m", system_prompt="", base_url=address.key, silent=address.silent)
        return identity.context

    assert context(extra) is None
    assert context({**extra, "seed": 1}) == {"extra": {"seed": 1}}


@pytest.mark.parametrize("other", [{"X-A": "3", "x-a": "2"}, {"x-a": "2", "X-A": "1"}, {"x-a": "2"}])
def test_headers_that_differ_in_case_only_are_all_sent_and_all_count(make_kit, other):
    kit = make_kit(exact_cache=ExactMatchCache())
    kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": {"X-A": "1", "x-a": "2"}}))

    assert kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": other})).cached is False


def test_the_order_of_different_headers_does_not_tell_requests_apart(make_kit):
    kit = make_kit(exact_cache=ExactMatchCache())
    kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": {"x-a": "1", "x-b": "2"}}))

    assert kit.chat(ChatConfig(user_message="Hello", extra={"extra_headers": {"x-b": "2", "x-a": "1"}})).cached is True


# -- a config that changes while it is being answered ------------------------------------------------------------------


def _rich() -> ChatConfig:
    return ChatConfig(
        user_message="A",
        history=[{"role": "user", "content": [{"type": "text", "text": "before"}]}],
        tools=[json.loads(json.dumps(TOOL))],
        attachments=[{"type": "text", "text": "a"}],
        extra={"seed": 1, "extra_headers": {"x-tenant": "a"}},
    )


CHANGES = {
    "user_message": lambda config: setattr(config, "user_message", "B"),
    "temperature": lambda config: setattr(config, "temperature", 0.9),
    "history": lambda config: config.history.append({"role": "user", "content": "injected"}),
    "content": lambda config: config.history[0].content[0].update(text="injected"),
    "tools": lambda config: config.tools[0]["function"].update(name="injected"),
    "attachments": lambda config: config.attachments.append({"type": "text", "text": "injected"}),
    "extra": lambda config: config.extra.update(seed=2),
    "headers": lambda config: config.extra["extra_headers"].update({"x-tenant": "b"}),
    "response_model": lambda config: setattr(config, "response_model", Person),
}


def _plain() -> ChatConfig:
    return ChatConfig(user_message="A", history=[], tools=[], attachments=[], extra={})


CASES = [(_rich, change) for change in CHANGES]
CASES += [(_plain, change) for change in ("user_message", "temperature", "history", "attachments", "extra")]


@pytest.mark.parametrize(("make", "change"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_what_changes_in_a_config_under_way_reaches_neither_provider_nor_cache(
    make_kit, endpoint, method, make, change
):
    """The cache's lookup is the moment between naming a request and building it, in whichever method."""
    config = make()

    class Meddling(ExactMatchCache):
        def get(self, *args, **kwargs):
            found = super().get(*args, **kwargs)
            CHANGES[change](config)
            return found

    cache = Meddling()
    kit = make_kit(exact_cache=cache)
    answer = _ask(kit, method, config)
    sent = endpoint.seen[-1]
    plain = make_kit().chat(make())

    assert answer.content == plain.content
    assert answer.parsed is None
    body = {name: value for name, value in sent.body.items() if name not in ("stream", "stream_options")}
    assert body == {name: value for name, value in endpoint.seen[-1].body.items() if name != "stream"}
    assert len(cache) == 1
    assert make_kit(exact_cache=cache).chat(make()).cached is True


def _ask(kit, method, config):
    async def consume():
        answer = getattr(kit, method)(config)
        return [chunk async for chunk in answer][-1].response if method == "astream" else await answer

    if method.startswith("a"):
        return asyncio.run(consume())
    return kit.chat(config) if method == "chat" else list(kit.stream(config))[-1].response


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_stream_answers_the_question_it_was_made_for(make_kit, endpoint, method):
    cache = ExactMatchCache()
    kit = make_kit(exact_cache=cache)
    config = ChatConfig(user_message="A")

    async def consume(stream):
        return [chunk async for chunk in stream]

    stream = getattr(kit, method)(config)
    config.user_message = "B"
    list(stream) if method == "stream" else asyncio.run(consume(stream))

    assert endpoint.seen[-1].body["messages"] == [{"role": "user", "content": "A"}]
    assert kit.chat(ChatConfig(user_message="A")).cached is True
    assert kit.chat(config).cached is False


def test_a_task_answers_the_question_as_it_was_when_it_began(make_kit, endpoint):
    kit = make_kit(exact_cache=ExactMatchCache())
    config = ChatConfig(user_message="A", history=[])

    async def main() -> None:
        task = asyncio.create_task(kit.achat(config))
        await asyncio.sleep(0)
        config.history.append({"role": "user", "content": "injected"})
        await task

    asyncio.run(main())
    assert endpoint.seen[-1].body["messages"] == [{"role": "user", "content": "A"}]
    assert kit.chat(config).cached is False


def test_a_copy_keeps_the_class_it_has_to_fit(make_kit):
    config = ChatConfig(user_message="Who?", response_model=Person, tools=[{"of": Person}])
    copied = snapshot(config)

    assert copied.response_model is copied.tools[0]["of"] is Person
    assert copied.tools[0] is not config.tools[0]
    assert isinstance(make_kit().chat(ChatConfig(user_message="Who?", response_model=Person)).parsed, Person)


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("stand-in", {"temperature": 0.7}),
        ("stand-in", {"extra": {"temperature": 0.7}}),
        ("stand-in", {"extra": {"extra_body": {"temperature": 0.7}}}),
        ("stand-in", {"extra": {"temperature": None}}),  # the provider's default, which is not 0
        ("stand-in", {"extra": {"temperature": "cold"}}),
        ("stand-in", {"max_tokens": 2}),
        ("refuse", {}),
    ],
)
def test_samples_and_incomplete_answers_are_not_stored(ask, make_kit, model, config):
    cache = ExactMatchCache()
    answer = ask(make_kit(model, exact_cache=cache), ChatConfig(user_message="Hello", **config))

    assert answer.content
    assert len(cache) == 0


def test_a_stored_sample_is_a_hit_at_its_temperature(ask, make_kit, endpoint):
    cache = ExactMatchCache()
    context = {"base_url": endpoint.base_url}
    cache.put("Hello", "", "stand-in", 0.7, 4096, LLMResponse(content="Hi!"), context=context)

    assert ask(make_kit(exact_cache=cache), ChatConfig(user_message="Hello", temperature=0.7)).content == "Hi!"


@pytest.mark.parametrize("model", ["cut", "cut-clean", "error-event", "garbage", "error-500", "misfit"])
@pytest.mark.parametrize("method", ["stream", "astream"])
def test_a_failed_stream_is_not_stored(make_kit, asks, method, model):
    cache = ExactMatchCache()
    with pytest.raises(Exception, match=r"provider|fit"):
        asks[method](make_kit(model, exact_cache=cache), ChatConfig(user_message="Hello", response_model=Person))

    assert len(cache) == 0


def test_a_stream_is_stored_before_its_last_chunk_is_handed_out(make_kit):
    cache = ExactMatchCache()
    for chunk in make_kit(exact_cache=cache).stream(ChatConfig(user_message="Hello")):
        assert len(cache) == chunk.is_final
        if chunk.is_final:
            break
    assert len(cache) == 1


def test_an_abandoned_stream_hangs_up_and_is_not_stored(make_kit, endpoint, eventually):
    cache = ExactMatchCache()
    stream = make_kit("endless", exact_cache=cache).stream(ChatConfig(user_message="Hello"))
    next(stream)
    stream.close()

    eventually(lambda: endpoint.hangups == 1)
    assert len(cache) == 0


def test_a_stream_that_is_merely_dropped_hangs_up(make_kit, endpoint, eventually):
    next(make_kit("endless").stream(ChatConfig(user_message="Hello")))

    eventually(lambda: endpoint.hangups == 1)


@pytest.mark.parametrize("way", ["close", "drop", "cancel", "scope"])
def test_an_abandoned_async_stream_hangs_up_and_is_not_stored(make_kit, endpoint, eventually, way):
    cache = ExactMatchCache()
    kit = make_kit("endless", exact_cache=cache)

    async def main() -> None:
        stream = kit.astream(ChatConfig(user_message="Hello"))
        await anext(stream)
        if way == "close":
            await stream.aclose()
        elif way == "drop":
            del stream
        else:
            await _cancelled(stream, by_scope=way == "scope")
        await asyncio.to_thread(eventually, lambda: endpoint.hangups == 1)

    asyncio.run(main())
    assert len(cache) == 0


async def _cancelled(stream, *, by_scope: bool) -> None:
    """Cancel the consumer of ``stream`` while it waits for the next chunk."""
    running = anyio.Event()
    scope = anyio.CancelScope()

    async def consume() -> None:
        with scope if by_scope else nullcontext():
            async for _ in stream:
                running.set()

    task = asyncio.create_task(consume())
    await running.wait()
    if by_scope:
        scope.cancel()
        await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- faces -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_async_methods_take_an_async_core(make_kit, endpoint, asks, method):
    kit = make_kit(exact_cache=AsyncCore())
    config = ChatConfig(user_message="Hello")

    assert [asks[method](kit, config).cached for _ in range(2)] == [False, True]
    assert endpoint.requests == 1


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_blocking_methods_refuse_an_async_core_before_anything_is_sent(make_kit, endpoint, method):
    kit = make_kit(exact_cache=AsyncCore())
    with pytest.raises(InvalidTypeError, match=r"exact_cache is async \(AsyncCore\): use achat"):
        getattr(kit, method)(ChatConfig(user_message="Hello"))
    assert endpoint.requests == 0


def test_async_methods_use_the_async_core_of_a_blocking_face(make_kit, asks):
    cache = TwoFaces()
    kit = make_kit(exact_cache=cache)

    asks["achat"](kit, ChatConfig(user_message="async"))
    assert (len(cache), len(cache.aio.inner)) == (0, 1)
    asks["chat"](kit, ChatConfig(user_message="blocking"))
    assert (len(cache), len(cache.aio.inner)) == (1, 1)


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_a_slow_blocking_cache_does_not_block_the_event_loop(make_kit, method):
    may_go_on = threading.Event()
    calling_threads = []

    class Slow(ExactMatchCache):
        """Both calls wait for something that only the event loop does: were it blocked, they would never return."""

        def get(self, *args, **kwargs):
            self._wait()
            return super().get(*args, **kwargs)

        def put(self, *args, **kwargs):
            self._wait()
            super().put(*args, **kwargs)

        def _wait(self):
            calling_threads.append(threading.current_thread())
            assert may_go_on.wait(10)
            may_go_on.clear()

    cache = Slow()
    kit = make_kit(exact_cache=cache)

    async def main() -> None:
        config = ChatConfig(user_message="Hello")
        request = asyncio.ensure_future(kit.achat(config) if method == "achat" else _last(kit.astream(config)))
        while not request.done():
            await asyncio.sleep(0.001)
            may_go_on.set()
        await request

    asyncio.run(main())
    assert len(cache) == 1
    assert len(calling_threads) == 2
    assert threading.main_thread() not in calling_threads


async def _last(stream):
    return [chunk async for chunk in stream][-1]


def test_a_cancelled_request_does_not_wait_for_a_slow_cache(make_kit):
    released = threading.Event()
    outlasted: list[bool] = []

    class Hanging(ExactMatchCache):
        def get(self, *args, **kwargs):
            outlasted.append(released.wait(10))
            return super().get(*args, **kwargs)

    kit = make_kit(exact_cache=Hanging())

    async def main() -> None:
        try:
            with anyio.move_on_after(0.05) as scope:
                await kit.achat(ChatConfig(user_message="Hello"))
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kit.achat(ChatConfig(user_message="Hello")), 0.05)
        finally:
            assert not outlasted
            released.set()

    asyncio.run(main())


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [StoreTimeout("too slow", may_have_applied=True), ConnectionResetError("CANARY-hello"), KeyError("CANARY-hello")],
)
def test_a_broken_cache_fails_no_request(ask, make_kit, caplog, error):
    answer = ask(make_kit(exact_cache=Broken(error)), ChatConfig(user_message="CANARY-hello"))

    assert answer.content
    records = [
        record for record in caplog.records if record.name == "ractogateway.kit" and record.levelno > logging.INFO
    ]
    assert [record.levelno for record in records] == [logging.WARNING] * 2
    name = type(error).__name__
    assert [record.getMessage().split(";")[0] for record in records] == [
        f"exact cache lookup failed: {name}",
        f"exact cache store failed: {name}",
    ]
    assert "CANARY" not in caplog.text
    assert answer.content not in caplog.text


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_a_broken_async_core_fails_no_request(make_kit, asks, caplog, method):
    assert asks[method](make_kit(exact_cache=BrokenCore()), ChatConfig(user_message="Hello")).content
    assert caplog.text.count("StoreTimeout") == 2


def test_a_cache_that_returns_something_else_is_a_miss(ask, make_kit, caplog):
    class Odd(ExactMatchCache):
        def get(self, *_args, **_kwargs):
            return "Hi!"

    assert ask(make_kit(exact_cache=Odd()), ChatConfig(user_message="Hello")).content != "Hi!"
    assert "returned a str, not an LLMResponse" in caplog.text


def test_a_request_that_cannot_be_named_bypasses_the_cache(ask, make_kit, endpoint, caplog):
    cache = ExactMatchCache()
    kit = make_kit(exact_cache=cache)
    config = ChatConfig(user_message="CANARY-hello", extra={"options": {0.5: 1}})  # JSON makes the key a string

    assert [ask(kit, config).cached for _ in range(2)] == [False, False]
    assert endpoint.requests == 2
    assert len(cache) == 0
    assert caplog.text.count("bypasses it") == 1
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize(
    ("cache", "message"),
    [({}, "dict has no put"), (ExactMatchCache, "not the class ExactMatchCache"), ("x", "has no get")],
)
def test_what_is_no_cache_is_refused_when_the_kit_is_made(make_kit, cache, message):
    with pytest.raises(InvalidTypeError, match=message):
        make_kit(exact_cache=cache)


def test_an_empty_cache_is_a_cache(make_kit):
    class Falsy(ExactMatchCache):
        def __bool__(self):
            return False

    kit = make_kit(exact_cache=Falsy())
    assert [kit.chat(ChatConfig(user_message="Hello")).cached for _ in range(2)] == [False, True]
