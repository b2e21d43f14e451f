"""The cache of one process."""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ractogateway.cache import CacheStats, ExactCache, ExactMatchCache
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import FinishReason, LLMResponse, ToolCall, Usage

REST = ("You are helpful.", "gpt-4o", 0.0, 4096)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Calls:
    """A value in ``parsed`` with foreign code in every place where the cache could run it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __deepcopy__(self, memo: object) -> Calls:
        self.call()
        return Calls(self.call)

    def __del__(self) -> None:
        self.call()


class CallingContext(Mapping[str, Any]):
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __getitem__(self, key: str) -> Any:
        self.call()
        return "value"

    def __iter__(self) -> Iterator[str]:
        self.call()
        return iter(["key"])

    def __len__(self) -> int:
        return 1


def put(cache: ExactMatchCache, user: str, content: str = "an answer", **more: Any) -> None:
    cache.put(user, *REST, LLMResponse(content=content), **more)


def contents(cache: ExactMatchCache, *users: str) -> list[str | None]:
    hits = [cache.get(user, *REST) for user in users]
    return [hit.content if hit else None for hit in hits]


def in_time(work: Callable[[], object]) -> bool:
    """Whether ``work`` comes back at all: a lock taken twice never would."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive()


def test_it_is_an_exact_cache():
    # Not isinstance: on Python 3.11 that would read the `stats` property, which asks the network in other caches.
    for name in ("get", "put", "invalidate", "clear"):
        documented = inspect.signature(getattr(ExactCache, name))
        assert inspect.signature(getattr(ExactMatchCache, name)) == documented


def test_a_hit_is_marked_and_billed_at_zero():
    cache = ExactMatchCache()
    call = ToolCall(id="1", name="f", arguments={"a": [1]}, arguments_json='{"a":[1]}')
    answer = LLMResponse(
        content="Paris",
        thinking="France …",
        parsed={"city": ["Paris"]},
        tool_calls=[call],
        finish_reason=FinishReason.TOOL_CALLS,
        usage=Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7),
        model="gpt-4o-2024",
        raw=object(),
    )
    cache.put("Capital?", *REST, answer)
    hit = cache.get("Capital?", *REST)
    assert hit == answer.model_copy(
        update={"raw": None, "cached": True, "usage": Usage(), "saved_usage": answer.usage},
    )


def test_the_context_is_part_of_the_request():
    cache = ExactMatchCache()
    bob = {"history": [{"role": "user", "content": "My name is Bob."}]}
    alice = {"history": [{"role": "user", "content": "My name is Alice."}]}
    cache.put("Name?", *REST, LLMResponse(content="Bob"), context=bob)
    assert cache.get("Name?", *REST) is None
    assert cache.get("Name?", *REST, context=alice) is None
    assert cache.invalidate("Name?", *REST, context=alice) is False
    hit = cache.get("Name?", *REST, context=bob)
    assert hit is not None
    assert hit.content == "Bob"
    assert cache.invalidate("Name?", *REST, context=bob) is True
    assert cache.get("Name?", *REST, context=bob) is None


def test_any_temperature_and_empty_texts_are_stored():
    cache = ExactMatchCache()
    cache.put("", "", "", 1.9, 1, LLMResponse(finish_reason=FinishReason.LENGTH))
    assert cache.get("", "", "", 1.9, 1) is not None


def test_nothing_mutable_is_shared():
    cache = ExactMatchCache()
    answer = LLMResponse(
        content="x", parsed={"list": [1]}, tool_calls=[ToolCall(id="1", name="f", arguments={"list": [1]})]
    )
    cache.put("q", *REST, answer)
    for given in (answer, cache.get("q", *REST), cache.get("q", *REST)):
        assert given is not None
        assert given.parsed == {"list": [1]}
        assert given.tool_calls[0].arguments == {"list": [1]}
        given.content = "changed"
        given.parsed["list"].append(2)
        given.tool_calls[0].arguments["list"].append(2)
        given.tool_calls.clear()


def test_the_raw_object_is_released_and_may_be_uncopyable():
    cache = ExactMatchCache()
    seen: list[str] = []
    answer = LLMResponse(content="x", raw={"lock": threading.Lock(), "del": Calls(lambda: seen.append("gone"))})
    cache.put("q", *REST, answer)
    del answer
    gc.collect()
    assert seen == ["gone"]
    hit = cache.get("q", *REST)
    assert hit is not None
    assert hit.raw is None


def test_a_hit_that_is_stored_again_keeps_what_it_had_cost():
    usage = Usage(total_tokens=7)
    first, second = ExactMatchCache(), ExactMatchCache()
    first.put("q", *REST, LLMResponse(content="x", usage=usage))
    hit = first.get("q", *REST)
    assert hit is not None
    second.put("q", *REST, hit)
    again = second.get("q", *REST)
    assert again == hit
    assert again.saved_usage == usage


def test_a_parsed_value_that_cannot_be_copied_is_refused():
    cache = ExactMatchCache()
    with pytest.raises(InvalidTypeError, match="parsed"):
        cache.put("q", *REST, LLMResponse(parsed=threading.Lock()))
    assert len(cache) == 0


@pytest.mark.parametrize("wrong", [None, "text", {"content": "x"}, 1])
def test_only_answers_are_stored(wrong):
    cache = ExactMatchCache()
    with pytest.raises(InvalidTypeError, match="response must be an LLMResponse"):
        cache.put("q", *REST, wrong)
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_size": 0}, InvalidValueError),
        ({"max_size": -1}, InvalidValueError),
        ({"max_size": 1.0}, InvalidTypeError),
        ({"max_size": True}, InvalidTypeError),
        ({"max_size": None}, InvalidTypeError),
        ({"ttl_seconds": 0}, InvalidValueError),
        ({"ttl_seconds": -1.0}, InvalidValueError),
        ({"ttl_seconds": float("nan")}, InvalidValueError),
        ({"ttl_seconds": "60"}, InvalidTypeError),
    ],
)
def test_wrong_settings(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        ExactMatchCache(**arguments)


def test_a_wrong_ttl_of_an_entry_stores_nothing():
    cache = ExactMatchCache()
    with pytest.raises(InvalidValueError, match="ttl_seconds"):
        put(cache, "q", ttl_seconds=0)
    assert len(cache) == 0


def test_an_entry_lives_exactly_its_ttl():
    clock = Clock()
    cache = ExactMatchCache(ttl_seconds=0.5, clock=clock)
    put(cache, "own")
    put(cache, "longer", ttl_seconds=2)
    clock.now += 0.4999
    assert contents(cache, "own", "longer") == ["an answer", "an answer"]
    clock.now = 1000.5
    assert len(cache) == 1
    assert contents(cache, "own", "longer") == [None, "an answer"]
    clock.now = 1002.0
    assert cache.invalidate("longer", *REST) is False
    assert len(cache) == 0


def test_writing_again_starts_a_new_life():
    clock = Clock()
    cache = ExactMatchCache(ttl_seconds=10, clock=clock)
    put(cache, "q", "first")
    clock.now += 9
    put(cache, "q", "second")
    clock.now += 9
    assert contents(cache, "q") == ["second"]
    put(cache, "q", "third", ttl_seconds=0.001)
    clock.now += 0.001
    assert contents(cache, "q") == [None]
    assert len(cache) == 0


def test_the_default_clock_is_real():
    cache = ExactMatchCache(ttl_seconds=0.02)
    put(cache, "q")
    give_up = time.monotonic() + 10
    while contents(cache, "q") != [None]:
        assert time.monotonic() < give_up
    assert len(cache) == 0


def test_a_miss_on_an_old_entry_releases_it():
    clock = Clock()
    cache = ExactMatchCache(ttl_seconds=1, clock=clock)
    seen: list[str] = []
    cache.put("q", *REST, LLMResponse(parsed=Calls(lambda: seen.append("gone"))))
    gc.collect()
    seen.clear()
    clock.now += 1
    assert cache.get("q", *REST) is None
    gc.collect()
    assert seen == ["gone"]


def test_the_least_recently_used_goes_first():
    cache = ExactMatchCache(max_size=2)
    put(cache, "a")
    put(cache, "b")
    contents(cache, "a")
    put(cache, "c")
    assert contents(cache, "a", "b", "c") == ["an answer", None, "an answer"]
    put(cache, "a", "again")
    put(cache, "d")
    assert contents(cache, "a", "c", "d") == ["again", None, "an answer"]


def test_an_expired_entry_goes_before_a_live_one():
    clock = Clock()
    cache = ExactMatchCache(max_size=2, clock=clock)
    put(cache, "live")
    put(cache, "old", ttl_seconds=1)
    clock.now += 1
    put(cache, "new")
    assert contents(cache, "live", "old", "new") == ["an answer", None, "an answer"]


def test_deadlines_of_replaced_entries_do_not_pile_up():
    cache = ExactMatchCache(ttl_seconds=3600)
    for _ in range(1000):
        put(cache, "q")
        put(cache, "r", ttl_seconds=7200)
        cache.invalidate("r", *REST)
    assert len(cache._entries._deadlines) < 100


def test_clear_and_stats():
    cache = ExactMatchCache()
    assert cache.stats == CacheStats()
    put(cache, "a")
    contents(cache, "a", "a", "b")
    assert cache.stats == CacheStats(hits=2, misses=1, size=1)
    cache.clear()
    assert contents(cache, "a") == [None]
    assert cache.stats == CacheStats(hits=2, misses=2, size=0)
    put(cache, "a")
    assert contents(cache, "a") == ["an answer"]


def test_neither_invalidate_nor_put_is_a_lookup():
    cache = ExactMatchCache()
    put(cache, "a")
    cache.invalidate("a", *REST)
    assert cache.stats.total == 0


def test_an_empty_cache_is_true():
    cache = ExactMatchCache()
    assert len(cache) == 0
    assert bool(cache) is True


def test_the_repr_shows_no_text():
    cache = ExactMatchCache(max_size=7)
    put(cache, "secret question", "secret answer")
    assert repr(cache) == "ExactMatchCache(size=1, max_size=7)"


def test_foreign_code_never_runs_under_the_lock():
    """Contexts, copies, destructors and the clock may use the cache themselves."""
    clock_calls = threading.local()

    def clock() -> float:
        if not getattr(clock_calls, "inside", False):
            clock_calls.inside = True
            len(cache)
            clock_calls.inside = False
        return 0.0

    cache = ExactMatchCache(max_size=2, clock=clock)

    def call() -> None:
        cache.get("other", *REST)

    def work() -> None:
        context = CallingContext(call)
        for user in "abcabc":
            cache.put(user, *REST, LLMResponse(parsed=Calls(call)), context=context)
            cache.get(user, *REST, context=context)
        cache.invalidate("c", *REST, context=context)
        cache.clear()

    assert in_time(work)
    assert cache.stats.hits == 6


def hammer(cache: ExactMatchCache, rng: random.Random) -> int:
    """One random operation; the number of lookups it made."""
    user, action = f"question {rng.randrange(12)}", rng.random()
    if action < 0.4:
        put(cache, user, f"answer to {user}", ttl_seconds=rng.choice([None, 0.001, 60]))
    elif action < 0.9:
        hit = cache.get(user, *REST)
        if hit is not None:
            assert hit.content == f"answer to {user}"
            hit.content = "changed by a caller"
        return 1
    elif action < 0.95:
        cache.invalidate(user, *REST)
    elif action < 0.99:
        assert len(cache) <= 8
    else:
        cache.clear()
    return 0


def test_sixteen_threads():
    """Nobody gets another request's answer, nothing is lost in the counters, and the bound holds at every moment."""
    cache = ExactMatchCache(max_size=8, ttl_seconds=0.002)
    barrier = threading.Barrier(16)

    def work(seed: int) -> int:
        rng = random.Random(seed)
        barrier.wait()
        return sum(hammer(cache, rng) for _ in range(300))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            lookups = sum(pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(interval)
    assert cache.stats.total == lookups
    assert cache.stats.hits > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("locked", [False, True])
def test_a_forked_child_can_use_the_cache(locked):
    """A lock that another thread holds at the moment of the fork would stay locked in the child for ever."""
    cache = ExactMatchCache()
    put(cache, "q")
    if locked:
        cache._lock.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads, which is the point
        child = os.fork()
    if child == 0:
        # The child of a locked parent starts empty, since the holder may have left its change half made.
        expected = [None] if locked else ["an answer"]
        works = cache._lock.acquire(timeout=10)
        if works:
            cache._lock.release()
            works = contents(cache, "q") == expected
            put(cache, "r")
            works = works and contents(cache, "r") == ["an answer"]
        os._exit(0 if works else 1)
    if locked:
        cache._lock.release()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert contents(cache, "q") == ["an answer"]
