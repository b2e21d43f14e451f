"""`get_or_compute` on every face: one computation for all who ask, and nobody gets what is not theirs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import wait_until

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import FinishReason, LLMResponse, Usage

# What depends on the server is in the scripts, which are tried on all servers by tests of their own.
SLOW = pytest.mark.slow
pytestmark = pytest.mark.parametrize(
    "server", ["valkey9", pytest.param("redis8", marks=SLOW), pytest.param("redis7", marks=SLOW)], indirect=True
)

REQUEST = (SECRET_PROMPT, "Be brief.", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER, usage=Usage(total_tokens=15), raw=object())


class Model:
    """Computes when it is let; counts."""

    def __init__(self, *answers: LLMResponse | Exception, open_at_once: bool = True) -> None:
        self._answers = list(answers) or [ANSWER]
        self._lock = threading.Lock()
        self.gate = threading.Event()
        self.calls = 0
        if open_at_once:
            self.gate.set()

    def __call__(self) -> LLMResponse:
        with self._lock:
            self.calls += 1
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        assert self.gate.wait(20.0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def never() -> LLMResponse:
    raise AssertionError("there was nothing to compute")


@contextmanager
def callers(count: int):
    with ThreadPoolExecutor(count) as pool:
        yield lambda *call, **named: pool.submit(*call, **named)


def test_computed_once_then_stored(make):
    cache, model = make("cache", ttl_seconds=60), Model()
    first = cache.get_or_compute(*REQUEST, model)
    assert first is ANSWER, "what was paid for comes as it came"
    second = cache.get_or_compute(*REQUEST, never)
    assert (second.content, second.cached, second.usage, second.saved_usage) == (
        SECRET_ANSWER,
        True,
        Usage(),
        ANSWER.usage,
    )
    assert cache.get(*REQUEST).content == SECRET_ANSWER
    assert (model.calls, len(cache)) == (1, 1)
    stats = cache.stats
    assert (stats.misses, stats.hits, stats.saved_tokens) == (1, 2, 30)


def test_what_was_put_is_not_computed(make):
    cache = make("cache", ttl_seconds=60)
    cache.put(*REQUEST, ANSWER, context={"history": ["x"]})
    assert cache.get_or_compute(*REQUEST, never, context={"history": ["x"]}).content == SECRET_ANSWER
    assert not cache.get_or_compute(*REQUEST, Model()).cached


def test_many_callers_one_computation(make):
    cache, model = make("cache", ttl_seconds=60), Model(open_at_once=False)
    with callers(12) as call:
        answers = [call(cache.get_or_compute, *REQUEST, model) for _ in range(12)]
        wait_until(lambda: model.calls, what="somebody computing")
        model.gate.set()
        answers = [answer.result(20.0) for answer in answers]
    assert model.calls == 1
    assert sorted(answer.cached for answer in answers) == [False] + [True] * 11
    assert all(answer.content == SECRET_ANSWER for answer in answers)
    assert len({id(answer) for answer in answers}) == 12
    stats = cache.stats
    assert (stats.misses, stats.coalesced + stats.hits, stats.saved_tokens) == (1, 11, 11 * 15)


def test_two_objects_one_computation(make):
    one, other, model = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60), Model(open_at_once=False)
    with callers(2) as call:
        first = call(one.get_or_compute, *REQUEST, model)
        wait_until(lambda: model.calls, what="one computing")
        second = call(other.get_or_compute, *REQUEST, never)
        assert cache_is_waiting(second)
        assert (one.get(*REQUEST), len(one)) == (None, 0), "a lease is no hit, and is not counted"
        model.gate.set()
        assert first.result(20.0) is ANSWER
        assert second.result(20.0).cached
    assert other.stats.coalesced == 1


def cache_is_waiting(future: Future[object]) -> bool:
    """It has had the time for a round trip or two and is not done."""
    with pytest.raises(TimeoutError):
        future.result(0.05)
    return True


def test_an_error_is_its_callers_alone(make):
    cache = make("cache", ttl_seconds=60)
    failing, working = Model(ZeroDivisionError("mine"), open_at_once=False), Model()
    with callers(4) as call:
        first = call(cache.get_or_compute, *REQUEST, failing)
        wait_until(lambda: failing.calls, what="one computing")
        others = [call(cache.get_or_compute, *REQUEST, working) for _ in range(3)]
        assert cache_is_waiting(others[0])
        failing.gate.set()
        with pytest.raises(ZeroDivisionError, match="mine"):
            first.result(20.0)
        assert all(other.result(20.0).content == SECRET_ANSWER for other in others)
    assert (failing.calls, working.calls) == (1, 1)


def test_whoever_was_disappointed_waits_for_the_next_one(make):
    caches = [make("cache", ttl_seconds=60) for _ in range(3)]
    failing, slow = Model(ZeroDivisionError(), open_at_once=False), Model(open_at_once=False)
    with callers(3) as call:
        first = call(caches[0].get_or_compute, *REQUEST, failing)
        wait_until(lambda: failing.calls, what="one computing")
        others = [call(cache.get_or_compute, *REQUEST, slow) for cache in caches[1:]]
        assert cache_is_waiting(others[0])
        failing.gate.set()
        wait_until(lambda: slow.calls, what="the next one computing")
        with pytest.raises(TimeoutError):
            others[0].result(0.3)
        slow.gate.set()
        assert {other.result(20.0).content for other in others} == {SECRET_ANSWER}
        with pytest.raises(ZeroDivisionError):
            first.result(20.0)
    assert slow.calls == 1


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CONTENT_FILTER], ids=str)
def test_an_answer_that_may_not_be_stored_is_its_callers_alone(make, reason):
    cache = make("cache", ttl_seconds=60)
    cut = Model(LLMResponse(content="Par", finish_reason=reason), open_at_once=False)
    with callers(2) as call:
        first = call(cache.get_or_compute, *REQUEST, cut)
        wait_until(lambda: cut.calls, what="one computing")
        second = call(cache.get_or_compute, *REQUEST, Model())
        assert cache_is_waiting(second)
        cut.gate.set()
        assert first.result(20.0).content == "Par"
        assert second.result(20.0) is ANSWER
    assert cache.get(*REQUEST).content == SECRET_ANSWER


def test_a_sample_is_nobody_elses(make):
    cache, model = make("cache", ttl_seconds=60), Model()
    warm = ("q", "", "m", 0.7, 5)
    assert [cache.get_or_compute(*warm, model).cached for _ in range(2)] == [False, False]
    assert (model.calls, len(cache)) == (2, 0)
    cache.put(*warm, ANSWER)
    assert cache.get_or_compute(*warm, never).cached


FORGETTING = {
    "invalidate": lambda cache: cache.invalidate(*REQUEST),
    "clear": lambda cache: cache.clear(),
    "invalidate_tag": lambda cache: cache.invalidate_tag("france"),
}


@pytest.mark.parametrize("how", FORGETTING)
@pytest.mark.parametrize("by", ["itself", "another object"])
def test_an_invalidation_wins_over_what_is_being_computed(make, how, by):
    cache = make("cache", ttl_seconds=60)
    forgetter = cache if by == "itself" else make("cache", ttl_seconds=60)
    slow = Model(LLMResponse(content="old"), open_at_once=False)
    with callers(2) as call:
        first = call(cache.get_or_compute, *REQUEST, slow, tags=["france", "europe"])
        wait_until(lambda: slow.calls, what="one computing")
        FORGETTING[how](forgetter)
        later = cache.get_or_compute(*REQUEST, Model(LLMResponse(content="new")), tags=["france", "europe"])
        assert (later.content, later.cached) == ("new", False), "a later call does not join"
        slow.gate.set()
        assert first.result(20.0).content == "old"
    assert cache.get(*REQUEST).content == "new"
    assert len(cache) == 1


@pytest.mark.parametrize("how", FORGETTING)
def test_what_was_overtaken_is_not_stored(make, how):
    cache, slow = make("cache", ttl_seconds=60), Model(open_at_once=False)
    with callers(1) as call:
        first = call(cache.get_or_compute, *REQUEST, slow, tags=["france"])
        wait_until(lambda: slow.calls, what="one computing")
        FORGETTING[how](cache)
        slow.gate.set()
        assert first.result(20.0) is ANSWER
    assert cache.get(*REQUEST) is None
    assert len(cache) == 0


def test_a_put_wins_over_what_is_being_computed(make):
    cache, slow = make("cache", ttl_seconds=60), Model(open_at_once=False)
    with callers(1) as call:
        first = call(cache.get_or_compute, *REQUEST, slow)
        wait_until(lambda: slow.calls, what="one computing")
        cache.put(*REQUEST, LLMResponse(content="put"))
        assert cache.get_or_compute(*REQUEST, never).content == "put"
        slow.gate.set()
        assert first.result(20.0) is ANSWER
    assert cache.get(*REQUEST).content == "put"


def test_a_time_to_live_of_its_own(make):
    cache = make("cache", ttl_seconds=60)
    cache.get_or_compute(*REQUEST, Model(), ttl_seconds=0.1)
    wait_until(lambda: cache.get(*REQUEST) is None, timeout_seconds=2, what="its end")


def test_a_computation_outlives_its_lease(make, monkeypatch):
    monkeypatch.setattr("ractogateway.redis._cache.computing._LEASE_MS", 200)
    monkeypatch.setattr("ractogateway.redis._cache.computing.BEAT_SECONDS", 0.03)
    monkeypatch.setattr("ractogateway.redis._cache.flights.LEASE_SECONDS", 0.2)
    one, other, slow = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60), Model(open_at_once=False)
    with callers(2) as call:
        first = call(one.get_or_compute, *REQUEST, slow)
        wait_until(lambda: slow.calls, what="one computing")
        second = call(other.get_or_compute, *REQUEST, never)
        with pytest.raises(TimeoutError):
            second.result(0.4)
        slow.gate.set()
        assert first.result(20.0) is ANSWER
        assert second.result(20.0).content == SECRET_ANSWER


def test_a_wait_is_bounded(make):
    one, other = make("cache", ttl_seconds=60), make("cache", ttl_seconds=60, max_wait_seconds=0.1)
    slow = Model(LLMResponse(content="slow"), open_at_once=False)
    with callers(1) as call:
        first = call(one.get_or_compute, *REQUEST, slow)
        wait_until(lambda: slow.calls, what="one computing")
        assert other.get_or_compute(*REQUEST, Model()) is ANSWER
        assert one.get(*REQUEST) is None, "it has no lease, so it stores nothing"
        slow.gate.set()
        assert first.result(20.0).content == "slow"
    assert one.get(*REQUEST).content == "slow"


def test_an_unreadable_entry_is_computed_anew(make, server):
    cache = make("cache", ttl_seconds=60)
    if "fake" in make.face:
        pytest.skip("there is no second way to its data")
    cache.put(*REQUEST, ANSWER)
    with server.client() as client:
        (key,) = client.keys("*:e:*")
        client.append(key, "x")
    assert cache.get(*REQUEST) is None
    assert cache.get_or_compute(*REQUEST, Model()) is ANSWER
    assert cache.get(*REQUEST).content == SECRET_ANSWER
    assert cache.stats.corrupt >= 2


def test_what_cannot_be_stored_is_returned(make):
    cache, answer = make("cache", ttl_seconds=60), LLMResponse(content="x", parsed=object())
    assert cache.get_or_compute(*REQUEST, Model(answer)) is answer
    assert cache.get(*REQUEST) is None


def computed_for_two(make, answer: LLMResponse) -> LLMResponse:
    """What somebody gets who waits for an answer."""
    cache, model = make("cache", ttl_seconds=60), Model(answer, open_at_once=False)
    with callers(2) as call:
        first = call(cache.get_or_compute, *REQUEST, model)
        wait_until(lambda: model.calls, what="one computing")
        second = call(cache.get_or_compute, *REQUEST, never)
        assert cache_is_waiting(second)
        model.gate.set()
        assert first.result(20.0) is answer
        return second.result(20.0)


def test_an_answer_that_cannot_be_stored_is_shared_all_the_same(make):
    shared = computed_for_two(make, LLMResponse(content="half an emoji \ud83d", usage=ANSWER.usage))
    assert (shared.content, shared.cached, shared.saved_usage) == ("half an emoji \ud83d", True, ANSWER.usage)


def test_whoever_waited_gets_what_a_hit_would_be(make):
    shared = computed_for_two(make, LLMResponse(content="x", parsed=ANSWER, usage=ANSWER.usage))
    hit = make("cache", ttl_seconds=60).get(*REQUEST)
    assert shared == hit
    assert type(shared.parsed) is dict


def test_bad_arguments(make):
    cache = make("cache", ttl_seconds=60)
    for compute in (None, ANSWER, "compute"):
        with pytest.raises(InvalidTypeError, match="compute"):
            cache.get_or_compute(*REQUEST, compute)
    with pytest.raises(InvalidTypeError, match="compute must return an LLMResponse, not str"):
        cache.get_or_compute(*REQUEST, lambda: SECRET_ANSWER)
    with pytest.raises(InvalidTypeError, match="tags"):
        cache.get_or_compute(*REQUEST, never, tags="france")
    with pytest.raises(InvalidValueError, match="ttl_seconds"):
        cache.get_or_compute(*REQUEST, never, ttl_seconds=0)
    for settings in ({"max_wait_seconds": -1}, {"early_refresh": float("nan")}, {"stale_seconds": 1e12}):
        with pytest.raises(InvalidValueError, match=next(iter(settings))):
            make("cache", **settings)


def settle(cache) -> None:
    """Nothing goes on in the background: clients are about to be closed."""
    wait_until(lambda: not cache._core._flights.flights, what="the end of the renewal")


# --- renewal before and after the end --------------------------------------------------------------------------------


def test_a_stale_answer_serves_while_one_computes(make):
    cache = make("cache", ttl_seconds=0.1, stale_seconds=30)
    cache.get_or_compute(*REQUEST, Model(LLMResponse(content="old")))
    wait_until(lambda: cache.get(*REQUEST) is None, timeout_seconds=2, what="the end of its life")
    wait_until(lambda: len(cache) == 0, timeout_seconds=2, what="the count of what is left")  # by its own clock
    renewing = Model(LLMResponse(content="new"), open_at_once=False)
    answers = [cache.get_or_compute(*REQUEST, renewing, ttl_seconds=60) for _ in range(3)]
    assert {(answer.content, answer.cached) for answer in answers} == {("old", True)}
    wait_until(lambda: renewing.calls, what="the renewal")
    assert renewing.calls == 1
    renewing.gate.set()
    wait_until(lambda: cache.get(*REQUEST) is not None, what="the new answer")
    assert cache.get_or_compute(*REQUEST, never).content == "new"
    assert cache.stats.stale == 3
    settle(cache)


def test_a_renewal_that_fails_leaves_the_stale_answer(make):
    cache = make("cache", ttl_seconds=0.05, stale_seconds=30)
    cache.put(*REQUEST, LLMResponse(content="old"))
    wait_until(lambda: cache.get(*REQUEST) is None, timeout_seconds=2, what="the end of its life")
    failing = Model(ZeroDivisionError())

    def serves() -> int:
        assert cache.get_or_compute(*REQUEST, failing).content == "old"
        return failing.calls

    wait_until(lambda: serves() > 0, what="the renewal")
    wait_until(lambda: serves() > 1, what="another one: the first one's lease is gone")
    settle(cache)


def test_an_answer_close_to_its_end_is_renewed_early(make):
    cache = make("cache", ttl_seconds=30, early_refresh=1000.0)  # 100 ms of computing, times 1000: surely due

    def slow() -> LLMResponse:
        time.sleep(0.1)
        return LLMResponse(content="old")

    cache.get_or_compute(*REQUEST, slow)
    patient = make("cache", ttl_seconds=30)
    assert patient.get_or_compute(*REQUEST, never).content == "old", "it is opt-in"
    renewing = Model(LLMResponse(content="new"), open_at_once=False)

    def is_renewing() -> bool:
        assert cache.get_or_compute(*REQUEST, renewing).content == "old"
        return renewing.calls > 0

    wait_until(is_renewing, what="the early renewal")
    assert cache.get_or_compute(*REQUEST, never).content == "old", "one renews it"
    renewing.gate.set()
    wait_until(lambda: cache.get(*REQUEST).content == "new", what="the new answer")
    settle(cache)
