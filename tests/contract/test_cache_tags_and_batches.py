"""Tags, several requests at a time, and what is counted, on every face."""

from __future__ import annotations

import pytest
from secrecy import SECRET_ANSWER, SECRET_PROMPT, SECRET_USER
from servers import wait_until

from ractogateway.cache import CacheCounters, CacheRequest
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import LLMResponse, Usage

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER, usage=Usage(total_tokens=10))


def ask(number: int) -> CacheRequest:
    return CacheRequest(f"question {number}", "", "gpt-4o", 0.0, 256)


# --- tags ------------------------------------------------------------------------------------------------------------


def test_a_tag_forgets_its_entries_and_no_others(make):
    cache, other = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60, namespace="other")
    for number, tags in enumerate([(), ("a",), ("b",), ("a", "b"), ("ab",)]):
        cache.put(*ask(number)[:5], ANSWER, tags=tags)
    other.put(*ask(1)[:5], ANSWER, tags=["a"])
    assert all(cache.get_many(map(ask, range(5))))
    cache.invalidate_tag("a")
    assert [answer is not None for answer in cache.get_many(map(ask, range(5)))] == [True, False, True, False, True]
    assert [cache.get(*ask(number)[:5]) is not None for number in range(5)] == [True, False, True, False, True]
    assert len(cache) == 3
    assert not cache.invalidate(*ask(1)[:5])
    assert cache.invalidate(*ask(2)[:5])
    assert other.get(*ask(1)[:5]) is not None
    cache.invalidate_tag("never used")
    assert len(cache) == 2


def test_what_is_stored_after_a_tag_was_invalidated_lives(make):
    cache = make("cache", ttl_seconds=60)
    for content in ("first", "second"):
        cache.put(*REQUEST, LLMResponse(content=content), tags=["t", SECRET_USER])
        assert cache.get(*REQUEST).content == content
        cache.invalidate_tag(SECRET_USER)
        assert cache.get(*REQUEST) is None
    cache.put(*REQUEST, ANSWER)
    cache.invalidate_tag("t")
    assert cache.get(*REQUEST).content == SECRET_ANSWER, "it carries no tag any more"
    assert len(cache) == 1


def test_a_computed_answer_carries_its_tags(make):
    cache = make("cache", ttl_seconds=60)
    cache.get_or_compute(*REQUEST, lambda: ANSWER, tags=["t"])
    assert cache.get_or_compute(*REQUEST, lambda: 1 / 0).content == SECRET_ANSWER, "whatever the reader's own tags are"
    assert cache.get_or_compute(*REQUEST, lambda: 1 / 0, tags=["v", "t"]).cached
    cache.invalidate_tag("t")
    assert cache.get_or_compute(*REQUEST, lambda: LLMResponse(content="new"), tags=["v"]).content == "new"


def test_more_tagged_entries_than_one_script_looks_at(make, monkeypatch):
    monkeypatch.setattr("ractogateway.redis._cache.store._SLICE", 7)
    cache = make("cache", ttl_seconds=60)
    cache.put_many([(ask(number), ANSWER) for number in range(40)], tags=["t"])
    cache.put_many([(ask(number), ANSWER) for number in range(5)])
    assert len(cache) == 40
    cache.invalidate_tag("t")
    assert len(cache) == 5
    assert [answer is not None for answer in cache.get_many(map(ask, range(8)))] == [True] * 5 + [False] * 3


def test_tags_of_any_characters(make):
    cache = make("cache", ttl_seconds=60)
    for tag in ("{", "*", "日本", "a b", "\x00", "\ud800"):
        cache.put(*REQUEST, ANSWER, tags=[tag])
        cache.invalidate_tag(tag)
        assert cache.get(*REQUEST) is None


def test_tags_that_cannot_be(make):
    cache = make("cache", ttl_seconds=60)
    for tags in ("t", b"t", 5, [1]):
        with pytest.raises(InvalidTypeError):
            cache.put(*REQUEST, ANSWER, tags=tags)
    for tags in ([""], [str(number) for number in range(65)]):
        with pytest.raises(InvalidValueError):
            cache.put(*REQUEST, ANSWER, tags=tags)
    with pytest.raises(InvalidValueError):
        cache.invalidate_tag("")
    cache.put(*REQUEST, ANSWER, tags=[str(number) for number in range(64)])
    assert cache.get(*REQUEST) is not None


# --- several at a time -----------------------------------------------------------------------------------------------


def test_many_in_their_order(make):
    cache = make("cache", ttl_seconds=60)
    cache.put_many([(ask(number), LLMResponse(content=f"answer {number}")) for number in range(5)])
    assert len(cache) == 5
    numbers = [3, 9, 0, 3, 8, 4]
    answers = cache.get_many(ask(number) for number in numbers)
    assert [answer and answer.content for answer in answers] == [f"answer {n}" if n < 5 else None for n in numbers]
    assert answers[0] is not answers[3]
    assert all(answer.cached for answer in answers if answer)
    assert (cache.stats.hits, cache.stats.misses) == (4, 2)


def test_none_at_all(make):
    cache = make("cache", ttl_seconds=60)
    cache.put_many([])
    assert cache.get_many([]) == []


def test_a_request_is_a_tuple_and_its_context_counts(make):
    cache = make("cache", ttl_seconds=60)
    context = {"history": ["x"]}
    cache.put_many([(CacheRequest(*REQUEST, context), ANSWER)], ttl_seconds=30, tags=["t"])
    assert cache.get_many([REQUEST, (*REQUEST, context), CacheRequest(*REQUEST)])[1].content == SECRET_ANSWER
    assert cache.get(*REQUEST, context=context).content == SECRET_ANSWER
    cache.invalidate_tag("t")
    assert cache.get_many([(*REQUEST, context)]) == [None]


def test_batches_that_cannot_be(make):
    cache = make("cache", ttl_seconds=60)
    for requests in ("text", 5, ["text"], [5], [None]):
        with pytest.raises(InvalidTypeError):
            cache.get_many(requests)
    for requests in ([()], [REQUEST[:4]], [(*REQUEST, None, None)]):
        with pytest.raises(InvalidValueError):
            cache.get_many(requests)
    for items in ("text", [REQUEST[0]], [(REQUEST, SECRET_ANSWER)], [("text", ANSWER)]):
        with pytest.raises(InvalidTypeError):
            cache.put_many(items)
    with pytest.raises(InvalidValueError):
        cache.put_many([(REQUEST, ANSWER, ANSWER)])
    with pytest.raises(InvalidTypeError):
        cache.put_many([(ask(1), ANSWER), (ask(2), "no answer")])
    assert len(cache) == 0, "nothing was written"


# --- what is counted -------------------------------------------------------------------------------------------------


def test_the_fleet_counts_together(make):
    one, other = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60)
    assert one.stats.fleet == CacheCounters()
    one.put(*REQUEST, ANSWER)
    for cache in (one, one, other):
        cache.get(*REQUEST)
    other.get("another", *REQUEST[1:])
    assert other.stats.hits == 1
    stats = one.stats
    assert (stats.hits, stats.misses, stats.saved_tokens) == (2, 0, 20)
    assert stats.fleet == CacheCounters(hits=3, misses=1, saved_tokens=30)
    assert one.stats.fleet == stats.fleet, "nothing is told twice"
    assert stats.fleet.hit_rate == 0.75
    assert make("cache", ttl_seconds=60, namespace="other").stats.fleet == CacheCounters()


def test_the_fleet_is_told_now_and_then(make, monkeypatch):
    monkeypatch.setattr("ractogateway.redis._cache.counts._TELL_SECONDS", 0.01)
    one, other = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60)

    def told() -> bool:
        one.get(*REQUEST)
        return other.stats.fleet.misses > 0

    wait_until(told, what="the fleet being told")


def test_stale_answers_are_no_hits_of_get(make):
    cache, strict = make("cache", ttl_seconds=0.05, stale_seconds=30), make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER)
    wait_until(lambda: cache.get(*REQUEST) is None, timeout_seconds=2, what="the end of its life")
    assert strict.get(*REQUEST) is None
    assert strict.get_many([REQUEST]) == [None]
    assert not strict.invalidate(*REQUEST)
    cache.put(*REQUEST, ANSWER)
    wait_until(lambda: len(cache) == 0, timeout_seconds=2, what="the end of its life")
    assert strict.get_or_compute(*REQUEST, lambda: LLMResponse(content="new")).content == "new"
