"""The exact cache, one idea at a time. Read from top to bottom.

A cached answer may be given only to a request that is the same in every respect. These tests show what a request is,
what a hit looks like, and how entries end.
"""

from __future__ import annotations

import pytest
from servers import wait_until

from ractogateway import LLMResponse
from ractogateway.cache import ExactMatchCache
from ractogateway.messages import Usage
from ractogateway.redis import RedisExactCache

# user message, system prompt, model, temperature, max tokens
REQUEST = ("What is the capital of France?", "Be brief.", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="Paris.", usage=Usage(prompt_tokens=12, completion_tokens=2, total_tokens=14))


@pytest.fixture
def cache(any_server):
    return RedisExactCache(url=any_server.url, ttl_seconds=60)


def test_what_was_put_is_what_one_gets(cache):
    assert cache.get(*REQUEST) is None
    cache.put(*REQUEST, ANSWER)
    assert cache.get(*REQUEST).content == "Paris."


def test_a_hit_says_that_it_is_one(cache):
    cache.put(*REQUEST, ANSWER)
    hit = cache.get(*REQUEST)
    assert hit.cached
    assert hit.usage.total_tokens == 0, "nothing was billed for it"
    assert hit.saved_usage.total_tokens == 14, "this is what it saved"


@pytest.mark.parametrize(
    "other",
    [
        ("What is the capital of Spain?", "Be brief.", "gpt-4o", 0.0, 256),
        ("What is the capital of France?", "", "gpt-4o", 0.0, 256),
        ("What is the capital of France?", "Be brief.", "gpt-4o-mini", 0.0, 256),
        ("What is the capital of France?", "Be brief.", "gpt-4o", 0.7, 256),
        ("What is the capital of France?", "Be brief.", "gpt-4o", 0.0, 64),
        ("What is the capital of France?Be brief.", "", "gpt-4o", 0.0, 256),
    ],
)
def test_a_request_that_differs_anywhere_is_another_request(cache, other):
    cache.put(*REQUEST, ANSWER)
    assert cache.get(*other) is None


def test_context_is_everything_else_that_shapes_an_answer(cache):
    after_hello = {"history": [{"role": "user", "content": "Hello!"}], "tools": []}
    cache.put(*REQUEST, ANSWER, context=after_hello)
    assert cache.get(*REQUEST) is None
    assert cache.get(*REQUEST, context={"tools": [], "history": [{"content": "Hello!", "role": "user"}]}).cached


def test_an_entry_ends_by_its_time_to_live(cache):
    cache.put(*REQUEST, ANSWER, ttl_seconds=0.05)
    wait_until(lambda: cache.get(*REQUEST) is None, what="the end of the entry")
    assert len(cache) == 0


def test_an_entry_ends_by_invalidate(cache):
    cache.put(*REQUEST, ANSWER)
    assert cache.invalidate(*REQUEST)
    assert cache.get(*REQUEST) is None
    assert not cache.invalidate(*REQUEST), "there was nothing left to forget"


def test_all_entries_end_by_clear(cache):
    cache.put(*REQUEST, ANSWER)
    cache.put("Another question", *REQUEST[1:], ANSWER)
    cache.clear()
    assert (cache.get(*REQUEST), len(cache)) == (None, 0)


def test_replicas_share_entries_and_count_for_themselves(cache, any_server):
    replica = RedisExactCache(url=any_server.url)
    cache.put(*REQUEST, ANSWER)
    assert replica.get(*REQUEST).content == "Paris."
    assert (replica.stats.hits, replica.stats.misses, replica.stats.hit_rate) == (1, 0, 1.0)
    assert (cache.stats.total, cache.stats.size) == (0, 1)


def test_namespaces_share_nothing(any_server):
    blue, green = (RedisExactCache(url=any_server.url, namespace=tenant) for tenant in ("blue", "green"))
    blue.put(*REQUEST, ANSWER)
    assert green.get(*REQUEST) is None
    green.clear()
    assert len(blue) == 1


def test_without_redis_there_is_the_same_cache_for_one_process():
    cache = ExactMatchCache(max_size=2, ttl_seconds=60)
    for question in ("first", "second", "third"):
        cache.put(question, *REQUEST[1:], ANSWER)
    assert cache.get("first", *REQUEST[1:]) is None, "the one that was used least recently had to go"
    assert cache.get("third", *REQUEST[1:]).cached
    assert (len(cache), cache.stats.hits, cache.stats.misses) == (2, 1, 1)
