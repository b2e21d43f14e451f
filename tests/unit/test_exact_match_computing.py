"""`get_or_compute` of the in-process cache: one computation for all who ask, threads and tasks alike."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from ractogateway.cache import ExactMatchCache
from ractogateway.errors import InvalidTypeError, InvalidValueError, UnsupportedEventLoopError
from ractogateway.messages import FinishReason, LLMResponse, Usage

ASKED = ("What is the capital of France?", "", "gpt-4o", 0.0, 256)
PARIS = LLMResponse(content="Paris", usage=Usage(total_tokens=15), raw=object())


class Model:
    """Counts its calls; answers when it is let go."""

    def __init__(self, *answers: LLMResponse | BaseException) -> None:
        self.answers = list(answers) or [PARIS]
        self.calls = 0
        self.go = threading.Event()
        self.began = threading.Event()

    def _next(self) -> LLMResponse:
        answer = self.answers[min(self.calls, len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __call__(self) -> LLMResponse:
        self.calls += 1
        self.began.set()
        assert self.go.wait(10)
        return self._next()

    async def acall(self) -> LLMResponse:
        self.calls += 1
        self.began.set()
        while not self.go.is_set():  # noqa: ASYNC110 - set by threads
            await asyncio.sleep(0.001)
        return self._next()


def callers(cache: ExactMatchCache) -> int:
    return sum(flight.callers for flights in cache._flights._by_key.values() for flight in flights)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def await_for(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - of any kind
            await asyncio.sleep(0.001)


def test_threads_and_tasks_share_one_computation():
    cache, model = ExactMatchCache(), Model()

    async def tasks() -> list[LLMResponse]:
        return await asyncio.gather(*(cache.aio.get_or_compute(*ASKED, model.acall) for _ in range(20)))

    with ThreadPoolExecutor(17) as threads:
        blocking = [threads.submit(cache.get_or_compute, *ASKED, model) for _ in range(16)]
        awaiting = threads.submit(asyncio.run, tasks())
        wait_for(lambda: callers(cache) == 36)
        model.go.set()
        answers = [*awaiting.result(), *(each.result() for each in blocking)]
    assert model.calls == 1
    assert {answer.content for answer in answers} == {"Paris"}
    (own,) = (answer for answer in answers if not answer.cached)
    assert own is PARIS
    others = [answer for answer in answers if answer.cached]
    assert all((answer.usage, answer.saved_usage, answer.raw) == (Usage(), PARIS.usage, None) for answer in others)
    assert len({id(answer) for answer in others}) == 35
    assert cache.get_or_compute(*ASKED, model).cached
    assert (model.calls, len(cache), callers(cache)) == (1, 1, 0)
    stats = cache.stats
    assert (stats.misses, stats.coalesced, stats.hits, stats.saved_tokens) == (1, 35, 1, 36 * 15)


def test_what_is_stored_is_not_computed():
    cache = ExactMatchCache()
    cache.put(*ASKED, PARIS)
    assert cache.get_or_compute(*ASKED, pytest.fail).content == "Paris"
    assert asyncio.run(cache.aio.get_or_compute(*ASKED, pytest.fail)).cached
    assert (cache.stats.hits, cache.stats.misses) == (2, 0)


def test_different_requests_do_not_wait_for_each_other():
    cache, slow = ExactMatchCache(), Model()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cache.get_or_compute, *ASKED, slow)
        assert slow.began.wait(10)
        assert cache.get_or_compute("Else?", *ASKED[1:], lambda: PARIS) is PARIS
        assert cache.get_or_compute(*ASKED, lambda: PARIS, context={"seed": 1}) is PARIS
        slow.go.set()
        waiting.result()


def test_each_entry_has_its_own_end_of_life():
    now = [0.0]
    cache = ExactMatchCache(ttl_seconds=10, clock=lambda: now[0])
    cache.get_or_compute(*ASKED, lambda: PARIS, ttl_seconds=1)
    now[0] = 0.9
    assert cache.get(*ASKED) is not None
    now[0] = 1.0
    assert cache.get(*ASKED) is None


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_reaches_the_one_whose_call_it_was():
    cache, failure = ExactMatchCache(), ValueError("no")
    model = Model(failure, PARIS)
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(cache.get_or_compute, *ASKED, model) for _ in range(8)]
        wait_for(lambda: callers(cache) == 8)
        model.go.set()
        errors = [future.exception() for future in futures]
    assert errors.count(failure) == 1
    assert errors.count(None) == 7
    assert model.calls == 2


def test_those_who_were_disappointed_twice_call_for_themselves():
    cache, model = ExactMatchCache(), Model(ValueError("no"))
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(cache.get_or_compute, *ASKED, model) for _ in range(8)]
        wait_for(lambda: callers(cache) == 8)
        model.go.set()
        assert all(isinstance(future.exception(), ValueError) for future in futures)
    assert model.calls == 8
    assert callers(cache) == 0


@pytest.mark.parametrize("wrong", [None, "Paris", {"content": "Paris"}])
def test_what_is_no_answer(wrong):
    cache = ExactMatchCache()
    with pytest.raises(InvalidTypeError, match="compute must return an LLMResponse"):
        cache.get_or_compute(*ASKED, lambda: wrong)
    with pytest.raises(InvalidTypeError, match="compute must return an LLMResponse"):
        asyncio.run(cache.aio.get_or_compute(*ASKED, lambda: wrong))
    assert callers(cache) == len(cache) == 0


def test_wrong_arguments_compute_nothing():
    cache = ExactMatchCache()
    for wrong in ({"ttl_seconds": 0}, {"max_temperature": float("nan")}):
        with pytest.raises(InvalidValueError):
            cache.get_or_compute(*ASKED, pytest.fail, **wrong)
        with pytest.raises(InvalidValueError):
            asyncio.run(cache.aio.get_or_compute(*ASKED, pytest.fail, **wrong))


def test_trio_is_refused_before_anything_is_computed():
    cache = ExactMatchCache()
    with pytest.raises(UnsupportedEventLoopError):
        cache.aio.get_or_compute(*ASKED, pytest.fail).send(None)
    assert callers(cache) == 0


# -- policy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "temperature"),
    [
        (LLMResponse(content="Par", finish_reason=FinishReason.LENGTH), 0.0),
        (LLMResponse(content=""), 0.0),
        (LLMResponse(content="No.", finish_reason=FinishReason.CONTENT_FILTER), 0.0),
        (PARIS, 0.7),
    ],
)
def test_what_may_not_be_stored_is_not_shared_either(answer, temperature):
    cache, model = ExactMatchCache(), Model(answer)
    asked = (*ASKED[:3], temperature, ASKED[4])
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(cache.get_or_compute, *asked, model) for _ in range(3)]
        wait_for(lambda: callers(cache) == 3)
        model.go.set()
        answers = [future.result() for future in futures]
    assert model.calls == 3
    assert not any(each.cached for each in answers)
    assert len(cache) == 0


def test_samples_are_shared_where_that_was_asked_for():
    cache = ExactMatchCache()
    asked = (*ASKED[:3], 0.7, ASKED[4])
    assert cache.get_or_compute(*asked, lambda: PARIS, max_temperature=0.7) is PARIS
    assert cache.get_or_compute(*asked, pytest.fail).cached


def test_an_answer_that_cannot_be_copied_is_returned_and_not_stored():
    cache = ExactMatchCache()

    class Stubborn:
        def __deepcopy__(self, _memo):
            raise RuntimeError("no")

    for what in (threading.Lock(), Stubborn()):
        odd = LLMResponse(content="Paris", parsed=what)
        assert cache.get_or_compute(*ASKED, lambda odd=odd: odd) is odd
    assert len(cache) == callers(cache) == 0


# -- overtaken --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overtake", [lambda cache: cache.invalidate(*ASKED), ExactMatchCache.clear], ids=["invalidate", "clear"]
)
def test_what_overtakes_a_computation_wins(overtake):
    cache, old, new = ExactMatchCache(), Model(LLMResponse(content="old")), Model(LLMResponse(content="new"))
    new.go.set()
    with ThreadPoolExecutor(2) as threads:
        before = [threads.submit(cache.get_or_compute, *ASKED, old) for _ in range(2)]
        wait_for(lambda: callers(cache) == 2)
        overtake(cache)
        assert cache.get_or_compute(*ASKED, new).content == "new"
        old.go.set()
        assert {future.result().content for future in before} == {"old"}
    assert (old.calls, new.calls) == (1, 1)
    assert cache.get(*ASKED).content == "new"


def test_a_put_wins_over_what_is_being_computed():
    cache, old = ExactMatchCache(), Model(LLMResponse(content="old"))
    with ThreadPoolExecutor(1) as threads:
        before = threads.submit(cache.get_or_compute, *ASKED, old)
        wait_for(old.began.is_set)
        cache.put(*ASKED, LLMResponse(content="new"))
        old.go.set()
        assert before.result().content == "old"
    assert cache.get(*ASKED).content == "new"


# -- cancelled --------------------------------------------------------------------------------------------------------


def test_a_leader_that_is_cancelled_does_not_take_the_others_answer_with_it():
    cache, model = ExactMatchCache(), Model()

    async def main() -> None:
        leader = asyncio.create_task(cache.aio.get_or_compute(*ASKED, model.acall))
        await await_for(model.began.is_set)
        others = [asyncio.create_task(cache.aio.get_or_compute(*ASKED, model.acall)) for _ in range(5)]
        await await_for(lambda: callers(cache) == 6)
        leader.cancel()
        others[0].cancel()
        await asyncio.wait((leader, others[0]))
        assert leader.cancelled()
        model.go.set()
        assert {answer.content for answer in await asyncio.gather(*others[1:])} == {"Paris"}

    asyncio.run(main())
    assert model.calls == 1
    assert cache.get(*ASKED).content == "Paris"


@pytest.mark.parametrize("begun", [True, False])
def test_when_the_last_caller_is_gone_the_computation_is_cancelled(begun):
    cache, model = ExactMatchCache(), Model()

    async def main() -> None:
        tasks = [asyncio.create_task(cache.aio.get_or_compute(*ASKED, model.acall)) for _ in range(3)]
        if begun:
            await await_for(lambda: callers(cache) == 3)
        else:
            await asyncio.sleep(0)  # they wait for a task that has not taken its first step
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await await_for(lambda: not cache._flights._by_key)
        model.go.set()
        assert (await cache.aio.get_or_compute(*ASKED, model.acall)).cached is False

    asyncio.run(main())
    assert model.calls <= 2


def test_a_timeout_around_one_caller_is_its_own():
    cache, model = ExactMatchCache(), Model()

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def impatient() -> None:
                with anyio.move_on_after(0.02) as scope:
                    await cache.aio.get_or_compute(*ASKED, model.acall)
                assert scope.cancelled_caught
                model.go.set()

            async def patient() -> None:
                assert (await cache.aio.get_or_compute(*ASKED, model.acall)).content == "Paris"

            group.start_soon(impatient)
            group.start_soon(patient)

    asyncio.run(main())
    assert model.calls == 1


def test_an_error_that_nobody_waits_for_any_more_is_silent(recwarn):
    cache, complaints = ExactMatchCache(), []

    async def fails() -> LLMResponse:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        leader = asyncio.create_task(cache.aio.get_or_compute(*ASKED, fails))
        other = asyncio.create_task(cache.aio.get_or_compute(*ASKED, lambda: PARIS))
        await await_for(lambda: callers(cache) == 2)
        leader.cancel()
        assert (await other).content == "Paris"
        gc.collect()

    asyncio.run(main())
    assert complaints == []


# -- no deadlock ------------------------------------------------------------------------------------------------------


def test_a_computation_may_ask_for_itself():
    cache = ExactMatchCache()
    assert cache.get_or_compute(*ASKED, lambda: cache.get_or_compute(*ASKED, lambda: PARIS)).content == "Paris"

    async def outer() -> LLMResponse:
        return await cache.aio.get_or_compute(*ASKED, inner)

    async def inner() -> LLMResponse:
        return PARIS

    async def main() -> LLMResponse:
        cache.clear()
        with anyio.fail_after(10):
            return await cache.aio.get_or_compute(*ASKED, outer)

    assert asyncio.run(main()).content == "Paris"


def test_a_blocking_call_inside_the_loop_that_computes_does_not_wait_for_it():
    cache, model = ExactMatchCache(), Model()

    async def main() -> None:
        task = asyncio.create_task(cache.aio.get_or_compute(*ASKED, model.acall))
        await await_for(model.began.is_set)
        assert cache.get_or_compute(*ASKED, lambda: PARIS) is PARIS
        model.go.set()
        await task

    asyncio.run(main())


def test_a_computation_whose_loop_is_gone_holds_nobody_up():
    cache, model = ExactMatchCache(), Model()
    loop = asyncio.new_event_loop()
    task = loop.create_task(cache.aio.get_or_compute(*ASKED, model.acall))
    while not model.began.is_set():
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()  # by hand, with the work half done
    assert cache.get_or_compute(*ASKED, lambda: PARIS) is PARIS
    task._log_destroy_pending = False
    from ractogateway.cache import exact_match_aio

    for orphan in exact_match_aio._running:
        orphan._log_destroy_pending = False
    exact_match_aio._running.clear()


def test_blocking_functions_run_in_a_thread():
    cache, model = ExactMatchCache(), Model()

    async def main() -> LLMResponse:
        task = asyncio.create_task(cache.aio.get_or_compute(*ASKED, model))
        await await_for(model.began.is_set)  # the loop goes on meanwhile
        model.go.set()
        return await task

    assert asyncio.run(main()) is PARIS


def test_a_fork_leaves_the_parents_computations_behind():
    cache, model = ExactMatchCache(), Model()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cache.get_or_compute, *ASKED, model)
        assert model.began.wait(10)
        parents = cache._flights
        cache.renew_after_fork()
        assert cache.get_or_compute(*ASKED, lambda: PARIS) is PARIS
        cache._flights = parents
        model.go.set()
        waiting.result()


def test_the_async_form_is_the_same_cache():
    cache = ExactMatchCache()

    async def main() -> None:
        aio = cache.aio
        await aio.put(*ASKED, PARIS, ttl_seconds=60)
        assert (await aio.get(*ASKED)).content == "Paris"
        assert (await aio.stats()).hits == 1
        assert await aio.size() == 1
        assert await aio.invalidate(*ASKED) is True
        await aio.clear()
        assert await aio.get(*ASKED) is None

    asyncio.run(main())
    assert cache.stats.misses == 1
