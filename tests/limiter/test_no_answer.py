"""What was sent and not answered: a settlement, a charge, a reservation that the server executes later than anybody
waits."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
import redis
import redis.asyncio
from faces import Maker
from proxy import Proxy
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from servers import Server, valkey9, wait_until

from ractogateway.errors import StoreUnavailable
from ractogateway.redis import AsyncRedisRateLimiter, RateLimitConfig, RedisOptions, RedisRateLimiter

SCRIPTS = (b"EVALSHA", b"EVAL")
BRIEF = RedisOptions(timeout_seconds=0.2, breaker_failures=1_000_000)
MOST = 2**53 - 1
ONE_LIMIT = RateLimitConfig(max_tokens_per_minute=MOST)
LIMITS = RateLimitConfig(max_tokens_per_minute=100, max_requests_per_minute=10, max_concurrent=1)
FACES = ["async url", "blocking url", "aio of url"]


@pytest.fixture
def proxy(any_server: Server) -> Iterator[Proxy]:
    with Proxy(any_server.url, seed=11) as between:
        yield between


def test_what_a_given_client_sends_again_after_seconds_is_charged_once(any_server: Server, proxy: Proxy):
    """Its timeout and its retries are its own: here it asks again when our own time limit has passed twice."""
    host, port = proxy.url.removeprefix("redis://").split("/")[0].split(":")
    own = redis.Redis(host=host, port=int(port), socket_timeout=2.2, retry=Retry(ConstantBackoff(0.0), 3))
    with own, ExitStack() as stack:
        limiter = RedisRateLimiter(client=own, config=ONE_LIMIT, on_outage="raise")
        limiter.consume("u", 1)
        proxy.faults(lose_one_in=1, losing=SCRIPTS, after_loss="silence")
        with ThreadPoolExecutor(1) as caller:
            consumed = caller.submit(limiter.consume, "u", 100)
            wait_until(lambda: proxy.lost, what="the lost reply")
            proxy.faults()
            assert consumed.result(30).allowed
        assert Maker("blocking url", any_server, stack)("limiter", config=ONE_LIMIT).get_remaining("u") == MOST - 101


def test_who_waits_through_a_long_outage_is_charged_once(any_server: Server, proxy: Proxy):
    """The first time, of which no answer came, is remembered for as long as the waiter asks."""
    with ExitStack() as stack:
        direct = Maker("blocking url", any_server, stack)("limiter", config=ONE_LIMIT)
        limiter = Maker("blocking url", proxy, stack)("limiter", config=ONE_LIMIT, on_outage="deny", options=BRIEF)
        limiter.wait("u", 1, timeout_seconds=1)
        proxy.faults(lose_one_in=1, losing=SCRIPTS)
        with ThreadPoolExecutor(1) as waiter:
            waiting = waiter.submit(limiter.wait, "u", 100, timeout_seconds=30)
            wait_until(lambda: direct.get_remaining("u") < MOST - 1, what="the charge of which no answer came")
            time.sleep(3 * BRIEF.timeout_seconds)
            proxy.faults()
            assert waiting.result(30).allowed
        assert direct.get_remaining("u") == MOST - 101


def test_a_settlement_that_is_tried_again_after_a_long_outage_is_applied_once(any_server: Server, proxy: Proxy):
    with ExitStack() as stack:
        direct = Maker("blocking url", any_server, stack)("limiter", config=ONE_LIMIT)
        limiter = Maker("blocking url", proxy, stack)("limiter", config=ONE_LIMIT, options=BRIEF)
        limiter.reserve("v", 1).settle(1)  # the script is known
        reservation = limiter.reserve("u", 100)
        proxy.faults(lose_one_in=1, losing=SCRIPTS)
        assert reservation.settle(500) is False
        assert direct.get_remaining("u") == MOST - 500
        time.sleep(3 * BRIEF.timeout_seconds)
        proxy.faults()
        wait_until(lambda: reservation.settle(500), what="the settlement getting through")
        assert direct.get_remaining("u") == MOST - 500


@pytest.fixture
def stopped() -> Iterator[tuple[Server, Callable[[], None], Callable[[], None]]]:
    """A server, and what stops it and lets it go on: it then executes what it was sent meanwhile."""
    with valkey9() as server:
        with server.client() as client:
            pid = client.info("server")["process_id"]
        yield server, partial(os.kill, pid, signal.SIGSTOP), partial(os.kill, pid, signal.SIGCONT)


@pytest.mark.cell("freeze", "limiter")
@pytest.mark.parametrize("policy", ["local", "raise"])
@pytest.mark.parametrize("face", FACES)
def test_a_stall_leaves_no_slot_behind(stopped: tuple, face: str, policy: str):
    server, stop, go_on = stopped
    with ExitStack() as stack:
        limiter = Maker(face, server, stack)("limiter", config=LIMITS, on_outage=policy, options=BRIEF)
        limiter.reserve("v", 1).settle(1)
        stop()
        try:
            if policy == "raise":
                with pytest.raises(StoreUnavailable):
                    limiter.reserve("u", 60)
            else:
                assert limiter.reserve("u", 60).decision.degraded
            time.sleep(BRIEF.timeout_seconds)
        finally:
            go_on()
        with Maker("blocking url", server, stack)("limiter", config=LIMITS, on_outage="raise") as direct:
            wait_until(lambda: direct.reserve("u", 100).decision.allowed, what="the slot and the budget")


def test_who_is_cancelled_while_the_server_stalls_leaves_no_slot_behind(stopped: tuple):
    """A client that was given drops its connection: what comes after it may overtake it."""
    server, stop, go_on = stopped

    async def main() -> None:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            limiter = AsyncRedisRateLimiter(client=client, config=LIMITS, on_outage="raise")
            await (await limiter.reserve("v", 1)).settle(1)
            stop()
            try:
                task = asyncio.create_task(limiter.reserve("u", 60).made())
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            finally:
                go_on()
            for _ in range(100):
                if (await limiter.reserve("u", 100)).decision.allowed:
                    return
                await asyncio.sleep(0.05)
            pytest.fail("the slot is gone")

    asyncio.run(main())
