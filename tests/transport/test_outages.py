"""What each tool does without Redis is chosen, visible in the result, and logged once a change of state."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from faces import Maker
from probing import outcome
from proxy import Proxy
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import wait_until

from ractogateway.errors import NotSent, RactoGatewayError, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisChatMemory, RateLimitConfig, RedisExactCache, RedisOptions

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER)
OPTIONS = RedisOptions(timeout_seconds=0.07, breaker_failures=2, breaker_seconds=0.05)
LIMITS = RateLimitConfig(max_tokens_per_minute=100)


@pytest.fixture
def proxy(any_server) -> Iterator[Proxy]:
    with Proxy(any_server.url) as between:
        yield between


@pytest.fixture(params=["async url", "blocking url", "aio of url"])
def make(request, proxy) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(request.param, proxy, stack)


def unavailable(call: Callable[[], Any]) -> None:
    with pytest.raises(StoreUnavailable):
        call()


def recovered(call: Callable[[], Any]) -> None:
    wait_until(lambda: not isinstance(outcome(call).result, RactoGatewayError), what="the recovery")


# --- cache -----------------------------------------------------------------------------------------------------------


def test_a_cache_that_misses(make, proxy):
    cache = make("cache", options=OPTIONS)
    cache.put(*REQUEST, ANSWER)
    with proxy.refusing():
        assert cache.get(*REQUEST) is None
        assert cache.put(*REQUEST, ANSWER) is None
        stats = cache.stats
        assert (stats.hits, stats.misses, stats.size) == (0, 1, None)
        assert stats.errors == 3
        # What deletes must not pretend to have deleted.
        unavailable(lambda: cache.invalidate(*REQUEST))
        unavailable(cache.clear)
        unavailable(lambda: len(cache))
    wait_until(lambda: cache.get(*REQUEST) is not None, what="the entry being found again")


def test_a_cache_that_raises(make, proxy):
    cache = make("cache", on_outage="raise", options=OPTIONS)
    with proxy.refusing():
        unavailable(lambda: cache.get(*REQUEST))
        unavailable(lambda: cache.put(*REQUEST, ANSWER))
        assert cache.stats.size is None
    recovered(lambda: cache.put(*REQUEST, ANSWER))
    assert cache.get(*REQUEST).content == SECRET_ANSWER


# --- limiter ---------------------------------------------------------------------------------------------------------


def test_a_limiter_that_decides_locally(make, proxy):
    """This process may spend its share and no more; afterwards Redis decides again, and knows nothing of it."""
    limiter = make("limiter", config=LIMITS, local_share=0.25, options=OPTIONS)
    assert limiter.consume("user", 40).remaining == 60
    with proxy.refusing():
        decision = limiter.consume("user", 20)
        assert (decision.allowed, decision.degraded, decision.limit, decision.remaining) == (True, True, 25, 5)
        decision = limiter.consume("user", 6)
        assert (decision.allowed, decision.degraded, decision.remaining) == (False, True, 5)
        assert decision.violated is not None
        assert 0 < decision.retry_after_seconds <= 60
        assert limiter.get_remaining("user") == 5
        assert limiter.peek("user", 5).allowed
        assert limiter.check_and_consume("user", 5) is True
        assert limiter.check_and_consume("user", 1) is False
        assert limiter.check_and_consume("another user", 25) is True
        assert limiter.consume("a third user", 26).retry_after_seconds == math.inf
        unavailable(lambda: limiter.reset("user"))
    wait_until(lambda: not limiter.peek("user").degraded, what="Redis deciding again")
    decision = limiter.consume("user", 1)
    assert (decision.degraded, decision.limit, decision.remaining) == (False, 100, 59)


def test_the_whole_share_is_spent_and_not_exceeded_by_many_threads(make, proxy):
    limiter = make("limiter", config=LIMITS, local_share=0.5, options=OPTIONS)
    with proxy.refusing(), ThreadPoolExecutor(16) as pool:
        decisions = list(pool.map(lambda _: limiter.consume("user", 3), range(40)))
    assert all(decision.degraded for decision in decisions)
    assert sum(decision.allowed for decision in decisions) == 50 // 3


def test_a_limiter_that_allows(make, proxy):
    limiter = make("limiter", config=LIMITS, on_outage="allow", options=OPTIONS)
    with proxy.refusing():
        for _ in range(3):
            decision = limiter.consume("user", 100)
            assert (decision.allowed, decision.degraded, decision.retry_after_seconds) == (True, True, 0.0)
        never = limiter.consume("user", 101)
        assert (never.allowed, never.degraded, never.retry_after_seconds) == (False, True, math.inf)
        unavailable(lambda: limiter.reset("user"))
    wait_until(lambda: not limiter.peek("user").degraded, what="Redis deciding again")
    assert limiter.get_remaining("user") == 100


def test_a_limiter_that_denies(make, proxy):
    limiter = make("limiter", config=LIMITS, on_outage="deny", options=OPTIONS)
    with proxy.refusing():
        decision = limiter.consume("user", 1)
        assert (decision.allowed, decision.degraded, decision.remaining) == (False, True, 0)
        assert 0 < decision.retry_after_seconds < math.inf
        assert limiter.get_remaining("user") == 0
        unavailable(lambda: limiter.reset("user"))
    wait_until(lambda: limiter.check_and_consume("user", 100), what="Redis deciding again")


def test_a_limiter_that_raises(make, proxy):
    limiter = make("limiter", config=LIMITS, on_outage="raise", options=OPTIONS)
    with proxy.refusing():
        unavailable(lambda: limiter.consume("user", 1))
        unavailable(lambda: limiter.check_and_consume("user", 1))
        unavailable(lambda: limiter.get_remaining("user"))
        unavailable(lambda: limiter.reset("user"))
    recovered(lambda: limiter.consume("user", 1))
    assert limiter.get_remaining("user") == 99


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_memory_never_pretends_to_be_empty(make, proxy):
    memory = make("memory", options=OPTIONS)
    memory.append("conversation", "user", "hello")
    with proxy.refusing():
        unavailable(lambda: memory.get_history("conversation"))
        unavailable(lambda: memory.count("conversation"))
        unavailable(lambda: memory.append("conversation", "user", "lost"))
        unavailable(lambda: memory.clear("conversation"))
    recovered(lambda: memory.count("conversation"))
    assert [message["content"] for message in memory.get_history("conversation")] == ["hello"]


# --- one line a change -----------------------------------------------------------------------------------------------


class Lines:
    """What our loggers said so far, by level."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="ractogateway")
        self._caplog = caplog

    def __call__(self, level: str) -> list[str]:
        ours = (record for record in self._caplog.records if record.name.startswith("ractogateway"))
        # The circuit breaker below has lines of its own, none of them a warning.
        return [
            record.getMessage()
            for record in ours
            if record.levelname == level and (level == "WARNING" or record.name == "ractogateway.redis")
        ]


@pytest.fixture
def lines(caplog) -> Lines:
    return Lines(caplog)


@pytest.mark.parametrize("tool", ["cache", "limiter"])
def test_one_line_for_the_outage_and_one_for_the_recovery(make, proxy, lines, tool):
    tool_object = make(tool, options=OPTIONS)
    call = (lambda: tool_object.get(*REQUEST)) if tool == "cache" else (lambda: tool_object.consume("user", 1))
    for outage in (1, 2):
        call()
        with proxy.refusing():
            for _ in range(30):
                call()
        assert len(lines("WARNING")) == outage
        assert len(lines("INFO")) == outage - 1

        def noticed(number: int = outage) -> bool:
            call()
            return len(lines("INFO")) == number

        wait_until(noticed, what="the line of the recovery")
        for _ in range(30):
            call()
        assert (len(lines("WARNING")), len(lines("INFO"))) == (outage, outage)


def test_many_threads_still_make_one_line(proxy, lines):
    """Some calls of the outage end after the first call that got through: they are no second outage."""
    cache = RedisExactCache(proxy.url, options=OPTIONS)
    with ThreadPoolExecutor(16) as pool:
        for outage in range(1, 4):
            cache.get(*REQUEST)
            with proxy.refusing():
                list(pool.map(lambda _: cache.get(*REQUEST), range(32)))
                late = [pool.submit(cache.get, *REQUEST) for _ in range(32)]
            for call in late:
                call.result()
            wait_until(lambda: cache.get(*REQUEST) or len(lines("INFO")) >= outage, what="the line of the recovery")
            assert (len(lines("WARNING")), len(lines("INFO"))) == (outage, outage)


def test_a_call_that_began_in_the_outage_and_ends_after_it_is_no_second_outage(proxy, lines):
    """The blocking face still waits on a connection that is dead when the other face finds Redis back."""
    cache = RedisExactCache(proxy.url, options=RedisOptions(timeout_seconds=0.3, stall_seconds=30.0))
    cache.get(*REQUEST)
    proxy.faults(swallow=True)
    with start_blocking_portal() as portal, ThreadPoolExecutor(1) as pool:
        cache.get(*REQUEST)
        late = pool.submit(cache.get, *REQUEST)
        wait_until(lambda: proxy.open == 1)
        proxy.faults()
        portal.call(cache.aio.get, *REQUEST)
        assert (len(lines("WARNING")), len(lines("INFO"))) == (1, 1)
        assert late.result() is None
    assert (len(lines("WARNING")), len(lines("INFO"))) == (1, 1)


def test_the_two_faces_of_one_object_make_one_line(proxy, lines):
    cache = RedisExactCache(proxy.url, options=OPTIONS)
    with start_blocking_portal() as portal, proxy.refusing():
        for _ in range(3):
            cache.get(*REQUEST)
            portal.call(cache.aio.get, *REQUEST)
    assert len(lines("WARNING")) == 1


def test_errors_that_are_passed_on_are_not_logged(make, proxy, lines):
    cache = make("cache", on_outage="raise", options=OPTIONS)
    limiter = make("limiter", on_outage="raise", options=OPTIONS)
    memory = make("memory", options=OPTIONS)
    calls = [lambda: cache.get(*REQUEST), lambda: limiter.consume("user", 1), lambda: memory.count("conversation")]
    with proxy.refusing():
        for call in calls:
            unavailable(call)
    for call in calls:
        recovered(call)
    assert lines("WARNING") + lines("INFO") == []


# --- the circuit breaker ---------------------------------------------------------------------------------------------


@pytest.mark.cell("slow server", "cache", "limiter", "memory")
def test_calls_fail_at_once_after_many_that_failed(make, proxy):
    options = RedisOptions(timeout_seconds=0.05, breaker_failures=3, breaker_seconds=0.3)
    memory = make("memory", options=options)
    call = lambda: memory.count("conversation")  # noqa: E731 - called in many places
    call()
    with proxy.refusing():
        for _ in range(3):
            unavailable(call)
        quick = [outcome(call) for _ in range(20)]
    assert all(isinstance(error, NotSent) for error, _ in quick)
    assert sum(seconds for _, seconds in quick) < 0.3
    recovered(call)
    assert call() == 0


@pytest.mark.cell("slow server", "cache", "limiter", "memory")
def test_a_probe_that_is_cancelled_does_not_keep_the_breaker_open(proxy):
    """Whoever finds out whether Redis is back may leave before it is known; somebody else finds out then."""

    async def main() -> None:
        options = RedisOptions(timeout_seconds=0.2, breaker_failures=1, breaker_seconds=0.01)
        memory = AsyncRedisChatMemory(proxy.url, options=options)
        await memory.count("conversation")
        proxy.faults(swallow=True)
        with pytest.raises(StoreUnavailable):
            await memory.count("conversation")
        for _ in range(5):
            await asyncio.sleep(0.02)
            probe = asyncio.create_task(memory.count("conversation"))
            await asyncio.sleep(0.005)
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
        proxy.faults()
        proxy.cut()
        await asyncio.sleep(0.02)
        assert await memory.count("conversation") == 0

    asyncio.run(main())


@pytest.mark.cell("slow server", "cache", "limiter", "memory", "blocking")
def test_one_call_at_a_time_finds_out_whether_redis_is_back(proxy):
    """Of many that ask when the breaker has been open long enough, one waits for Redis; the others fail at once."""

    async def main() -> list[float]:
        options = RedisOptions(timeout_seconds=0.5, breaker_failures=1, breaker_seconds=0.05)
        memory = AsyncRedisChatMemory(proxy.url, options=options)

        async def seconds_of_a_failure() -> float:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await memory.count("conversation")
            return time.monotonic() - began

        await memory.count("conversation")
        proxy.faults(swallow=True)
        await seconds_of_a_failure()
        await asyncio.sleep(0.1)
        return await asyncio.gather(*(seconds_of_a_failure() for _ in range(20)))

    assert sum(seconds > 0.4 for seconds in asyncio.run(main())) == 1
