"""The exact cache, one idea at a time. Read from top to bottom.

A cached answer may be given only to a request that is the same in every respect. These tests show what a request is,
what a hit looks like, how entries end, how a crowd of callers asks the model once, and what else a cache can do.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import wait_until

from ractogateway import LLMResponse
from ractogateway.cache import ExactMatchCache
from ractogateway.messages import FinishReason, Usage
from ractogateway.redis import CacheRequest, RedisExactCache

pytestmark = pytest.mark.usefixtures("patience")

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


def test_get_or_compute_asks_the_model_only_where_there_is_no_answer(cache):
    asked = []

    def ask_the_model() -> LLMResponse:
        asked.append("once")
        return ANSWER

    first = cache.get_or_compute(*REQUEST, ask_the_model)
    again = cache.get_or_compute(*REQUEST, ask_the_model)
    assert asked == ["once"]
    assert (first.cached, again.cached, again.content) == (False, True, "Paris.")


def test_of_many_who_ask_at_the_same_time_one_computes(cache):
    asked = []

    def ask_the_model() -> LLMResponse:
        asked.append("once")
        time.sleep(0.1)
        return ANSWER

    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(cache.get_or_compute, *REQUEST, ask_the_model) for _ in range(10)]
        answers = [call.result() for call in calls]
    assert asked == ["once"]
    assert all(answer.content == "Paris." for answer in answers)


def test_an_error_reaches_its_own_caller_and_the_next_one_computes(cache):
    def fail() -> LLMResponse:
        raise RuntimeError("the model is out")

    with pytest.raises(RuntimeError, match="the model is out"):
        cache.get_or_compute(*REQUEST, fail)
    assert cache.get_or_compute(*REQUEST, lambda: ANSWER).content == "Paris."


def test_an_answer_that_was_cut_short_is_returned_and_not_stored(cache):
    cut_short = LLMResponse(content="Par", finish_reason=FinishReason.LENGTH)
    assert cache.get_or_compute(*REQUEST, lambda: cut_short).content == "Par"
    assert cache.get(*REQUEST) is None


def test_what_was_invalidated_while_it_was_computed_is_not_stored(cache):
    def compute() -> LLMResponse:
        cache.invalidate(*REQUEST)  # somebody finds out that the old answer was wrong
        return ANSWER

    assert cache.get_or_compute(*REQUEST, compute).content == "Paris."
    assert cache.get(*REQUEST) is None


def test_a_tag_forgets_what_belongs_together(cache):
    cache.put(*REQUEST, ANSWER, tags=["atlas"])
    cache.put("What is 1 + 1?", "", "gpt-4o", 0.0, 16, LLMResponse(content="2"), tags=["sums"])
    cache.invalidate_tag("atlas")
    assert cache.get(*REQUEST) is None
    assert len(cache) == 1


def test_several_requests_take_one_round_trip(cache):
    questions = [CacheRequest(f"Question {number}", "", "gpt-4o", 0.0, 256) for number in range(3)]
    cache.put_many([(question, ANSWER) for question in questions[:2]])
    assert [answer is not None for answer in cache.get_many(questions)] == [True, True, False]


def test_a_near_cache_answers_without_asking_redis(any_server):
    cache = RedisExactCache(url=any_server.url, ttl_seconds=60, near_cache_entries=100)
    cache.put(*REQUEST, ANSWER)

    def asked_redis() -> bool:
        before = reads_of(any_server)
        assert cache.get(*REQUEST).content == "Paris."
        return reads_of(any_server) > before

    assert asked_redis(), "the first time, there is no copy yet"
    wait_until(lambda: not asked_redis(), what="a hit from this process's own memory")


def reads_of(server) -> int:
    with server.client() as client:
        told = client.info("commandstats")
    return sum(told.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in ("get", "mget", "evalsha"))


def test_a_near_cache_never_keeps_what_was_written_over(any_server):
    here = RedisExactCache(url=any_server.url, ttl_seconds=60, near_cache_entries=100)
    elsewhere = RedisExactCache(url=any_server.url, ttl_seconds=60)
    elsewhere.put(*REQUEST, ANSWER)
    assert here.get(*REQUEST).content == "Paris."
    elsewhere.put(*REQUEST, LLMResponse(content="Paris, of course."))
    assert here.get(*REQUEST).content == "Paris, of course."


def test_stats_count_for_this_object_and_for_the_fleet(cache, any_server):
    cache.put(*REQUEST, ANSWER)
    cache.get(*REQUEST)
    assert (cache.stats.hits, cache.stats.saved_tokens) == (1, 14)
    other = RedisExactCache(url=any_server.url, ttl_seconds=60)
    assert (other.stats.hits, other.stats.fleet.hits) == (0, 1)


def test_without_redis_there_is_the_same_cache_for_one_process():
    cache = ExactMatchCache(max_size=2, ttl_seconds=60)
    for question in ("first", "second", "third"):
        cache.put(question, *REQUEST[1:], ANSWER)
    assert cache.get("first", *REQUEST[1:]) is None, "the one that was used least recently had to go"
    assert cache.get("third", *REQUEST[1:]).cached
    assert (len(cache), cache.stats.hits, cache.stats.misses) == (2, 1, 1)
