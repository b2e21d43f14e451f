"""What every face of the exact cache promises, on every server."""

from __future__ import annotations

import pytest
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import wait_until

from ractogateway.errors import InvalidTypeError
from ractogateway.messages import FinishReason, LLMResponse, ToolCall, Usage

REQUEST = (SECRET_PROMPT, "Be brief.", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(
    content=SECRET_ANSWER,
    thinking="Easy.",
    parsed={"city": SECRET_ANSWER, "none": None, "list": [1, 2.5, True]},
    tool_calls=[ToolCall(id="c1", name="look_up", arguments={"q": "Paris"}, arguments_json='{"q":"Paris"}')],
    finish_reason=FinishReason.TOOL_CALLS,
    usage=Usage(prompt_tokens=12, completion_tokens=3, total_tokens=15, cached_tokens=4, reasoning_tokens=1),
    raw=object(),
    model="gpt-4o-2024-08-06",
)


def test_what_goes_in_comes_out(make):
    cache = make("cache", ttl_seconds=60)
    assert cache.get(*REQUEST) is None
    cache.put(*REQUEST, ANSWER)
    hit = cache.get(*REQUEST)
    assert hit is not None
    for field in ("content", "thinking", "parsed", "tool_calls", "finish_reason", "model"):
        assert getattr(hit, field) == getattr(ANSWER, field), field
    assert hit.raw is None


def test_a_hit_says_so_and_bills_nothing(make):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER)
    hit = cache.get(*REQUEST)
    assert (hit.cached, hit.usage, hit.saved_usage) == (True, Usage(), ANSWER.usage)
    assert ANSWER.cached is False


@pytest.mark.parametrize(
    "text",
    ["", "x" * 100_000, "日本語 🙂", '"quoted" \\ \n \x00', "[]"],
    ids=["empty", "long", "cjk", "escapes", "json"],
)
def test_texts_of_any_kind(make, text):
    cache = make("cache", ttl_seconds=60)
    cache.put(text, text, "m", 0.7, 1, LLMResponse(content=text))
    assert cache.get(text, text, "m", 0.7, 1).content == text


@pytest.mark.parametrize(
    "other",
    [
        ("What is the capital of Spain?", "Be brief.", "gpt-4o", 0.0, 256),
        (SECRET_PROMPT, "Be long.", "gpt-4o", 0.0, 256),
        (SECRET_PROMPT, "Be brief.", "gpt-4o-mini", 0.0, 256),
        (SECRET_PROMPT, "Be brief.", "gpt-4o", 0.1, 256),
        (SECRET_PROMPT, "Be brief.", "gpt-4o", 0.0, 257),
        ("What is the capital of France?Be brief.", "", "gpt-4o", 0.0, 256),
        ("", "What is the capital of France?Be brief.", "gpt-4o", 0.0, 256),
    ],
)
def test_a_request_that_differs_in_anything_is_another_request(make, other):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER)
    assert cache.get(*other) is None


def test_the_context_is_part_of_the_request(make):
    cache = make("cache", ttl_seconds=60)
    alice = {"history": [{"role": "user", "content": "I am Alice."}], "tools": None}
    bob = {"history": [{"role": "user", "content": "I am Bob."}], "tools": None}
    cache.put(*REQUEST, LLMResponse(content="Alice"), context=alice)
    assert cache.get(*REQUEST) is None
    assert cache.get(*REQUEST, context=bob) is None
    assert cache.get(*REQUEST, context=dict(reversed(alice.items()))).content == "Alice"
    assert cache.get(*REQUEST, context={**alice, "base_url": "http://other"}) is None


def test_no_context_and_an_empty_one_are_the_same(make):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER, context={})
    assert cache.get(*REQUEST) is not None


def test_put_replaces(make):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, LLMResponse(content="old"))
    cache.put(*REQUEST, LLMResponse(content="new"))
    assert cache.get(*REQUEST).content == "new"
    assert len(cache) == 1


def test_invalidate_forgets_one_entry_and_says_whether_there_was_one(make):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER)
    cache.put(*REQUEST, ANSWER, context={"history": ["x"]})
    assert cache.invalidate(*REQUEST) is True
    assert cache.invalidate(*REQUEST) is False
    assert cache.get(*REQUEST) is None
    assert cache.get(*REQUEST, context={"history": ["x"]}) is not None
    assert len(cache) == 1


def test_clear_forgets_everything_of_this_cache_only(make):
    cache, neighbour = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60, key_prefix="ractogateway:exact:eu")
    tenant = make("cache", ttl_seconds=60, namespace="acme")
    for each in (cache, neighbour, tenant):
        for number in range(5):
            each.put(f"question {number}", *REQUEST[1:], ANSWER)
    cache.clear()
    assert [len(each) for each in (cache, neighbour, tenant)] == [0, 5, 5]
    assert cache.get("question 1", *REQUEST[1:]) is None
    assert cache.invalidate("question 1", *REQUEST[1:]) is False
    assert neighbour.get("question 1", *REQUEST[1:]) is not None
    cache.put("question 1", *REQUEST[1:], LLMResponse(content="after"))
    assert cache.get("question 1", *REQUEST[1:]).content == "after"
    assert cache.get("question 2", *REQUEST[1:]) is None


def test_prefixes_and_namespaces_share_nothing(make):
    plain = make("cache", ttl_seconds=60, key_prefix="app")
    plain.put(*REQUEST, ANSWER)
    for settings in ({"key_prefix": "app:"}, {"key_prefix": "ap"}, {"key_prefix": "app", "namespace": "n"}):
        assert make("cache", **settings).get(*REQUEST) is None


def test_ttl_is_honoured_to_the_millisecond(make):
    cache = make("cache", ttl_seconds=0.15)
    cache.put(*REQUEST, ANSWER)
    cache.put("kept", *REQUEST[1:], ANSWER, ttl_seconds=60)
    assert cache.get(*REQUEST) is not None
    wait_until(lambda: cache.get(*REQUEST) is None, timeout_seconds=2, what="the end of the entry's life")
    assert cache.get("kept", *REQUEST[1:]) is not None
    wait_until(lambda: len(cache) == 1, timeout_seconds=2, what="the count of what is left")


def test_without_ttl_an_entry_stays(make):
    cache = make("cache")
    cache.put("fleeting", *REQUEST[1:], ANSWER, ttl_seconds=0.05)
    cache.put(*REQUEST, ANSWER)
    cache.put("fleeting too", *REQUEST[1:], ANSWER, ttl_seconds=0.05)
    wait_until(lambda: cache.get("fleeting too", *REQUEST[1:]) is None, timeout_seconds=2)
    assert cache.get(*REQUEST) is not None
    wait_until(lambda: len(cache) == 1, timeout_seconds=2, what="the count of what is left")


def test_stats_count(make):
    cache = make("cache", ttl_seconds=60)
    assert (cache.stats.total, cache.stats.hit_rate, cache.stats.size) == (0, 0.0, 0)
    cache.get(*REQUEST)
    cache.put(*REQUEST, ANSWER)
    for _ in range(3):
        cache.get(*REQUEST)
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.total, stats.hit_rate, stats.size) == (3, 1, 4, 0.75, 1)


def test_stored_at_any_temperature(make):
    cache = make("cache", ttl_seconds=60)
    cache.put("q", "", "m", 1.3, 5, ANSWER)
    assert cache.get("q", "", "m", 1.3, 5) is not None


def test_two_objects_are_one_cache(make):
    writer, reader = make("cache", ttl_seconds=60), make("cache", ttl_seconds=5)
    writer.put(*REQUEST, ANSWER)
    assert reader.get(*REQUEST) is not None


def replaced(**fields) -> LLMResponse:
    answer = LLMResponse(content="x")
    for name, value in fields.items():
        setattr(answer, name, value)
    return answer


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "answer",
    [replaced(content=4711), replaced(tool_calls=["4711"]), LLMResponse(parsed=nested(240))],
    ids=["content", "tool_calls", "parsed"],
)
def test_what_could_not_be_read_back_is_refused_and_not_quoted(make, answer, recwarn):
    cache = make("cache", ttl_seconds=60)
    with pytest.raises(InvalidTypeError, match="response holds something that JSON cannot hold") as caught:
        cache.put("q", "", "m", 0.0, 1, answer)
    assert caught.value.__context__ is None
    assert not [warning for warning in recwarn if "4711" in str(warning.message)]
    assert len(cache) == 0
