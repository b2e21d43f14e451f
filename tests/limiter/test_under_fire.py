"""The rate limiter's promises while replies are lost, while many processes want all of one budget, and while Redis is
away."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from faces import Maker
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import InvalidTypeError, InvalidValueError, RateLimitExceeded, StoreUnavailable
from ractogateway.redis import (
    AsyncRedisRateLimiter,
    BudgetLeases,
    RateLimitConfig,
    RateLimitParent,
    RedisOptions,
)
from ractogateway.redis.scripts import limiter_calls as calls

SCRIPTS = (b"EVALSHA", b"EVAL")
PATIENT = RedisOptions(timeout_seconds=60.0, stall_seconds=0.05, breaker_failures=1_000_000)
BRIEF = RedisOptions(timeout_seconds=0.2, breaker_failures=1_000_000)
MOST = 2**53 - 1
ONE_LIMIT = RateLimitConfig(max_tokens_per_minute=MOST)


@pytest.fixture
def proxy(any_server: Server) -> Iterator[Proxy]:
    with Proxy(any_server.url, seed=11) as between:
        yield between


# --- lost replies ----------------------------------------------------------------------------------------------------


@pytest.mark.cell("reply lost", "limiter")
@pytest.mark.parametrize("operations", [600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_what_is_charged_is_the_sum_of_distinct_operations(any_server: Server, proxy: Proxy, operations: int):
    """One reply in ten is lost. A third is consumed under names that two replicas use, a third reserved and settled."""
    config = RateLimitConfig(max_tokens_per_minute=MOST, max_tokens_per_day=MOST)
    expected = 0

    async def main() -> None:
        nonlocal expected
        replicas = [AsyncRedisRateLimiter(proxy.url, config=config, on_outage="raise", options=PATIENT) for _ in "ab"]
        chance, turns = random.Random(5), asyncio.Semaphore(64)

        async def perform(number: int, tokens: int, used: int) -> None:
            async with turns:
                if number % 3 == 0:
                    for replica in replicas:
                        assert (await replica.consume("u", tokens, request_id=f"r{number}")).allowed
                elif number % 3 == 1:
                    reservation = await replicas[0].reserve("u", tokens)
                    assert reservation.decision.allowed
                    await reservation.settle(used)
                else:
                    assert (await replicas[number % 2].consume("u", tokens)).allowed

        work = []
        for number in range(operations):
            tokens, used = chance.randrange(1, 1000), chance.randrange(0, 1500)
            expected += used if number % 3 == 1 else tokens
            work.append(perform(number, tokens, used))
        proxy.faults(lose_one_in=10, losing=SCRIPTS)
        await asyncio.gather(*work)
        proxy.faults()

    asyncio.run(main())
    assert proxy.lost >= operations / 10
    with ExitStack() as stack:
        limiter = Maker("blocking url", any_server, stack)("limiter", config=config, on_outage="raise")
        assert MOST - limiter.get_remaining("u") == expected


def test_who_waits_is_charged_once_whatever_replies_are_lost(any_server: Server, proxy: Proxy):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.5, max_tokens_per_day=MOST)

    async def main() -> None:
        limiter = AsyncRedisRateLimiter(proxy.url, config=config, on_outage="raise", options=PATIENT)
        await limiter.peek("u")
        proxy.faults(lose_one_in=4, losing=SCRIPTS)
        decisions = await asyncio.gather(*(limiter.wait("u", 10 + n, timeout_seconds=60.0) for n in range(12)))
        proxy.faults()
        assert all(decision.allowed for decision in decisions)

    asyncio.run(main())
    assert proxy.lost > 3
    with ExitStack() as stack:
        day = RateLimitConfig(max_tokens_per_minute=MOST, max_tokens_per_day=MOST)
        limiter = Maker("blocking url", any_server, stack)("limiter", config=day, on_outage="raise")
        assert MOST - limiter.get_remaining("u") == sum(10 + n for n in range(12))


# --- many processes --------------------------------------------------------------------------------------------------

SPENDER = """
    import asyncio, json, random, sys, time
    from ractogateway.redis import AsyncRedisRateLimiter, RateLimitConfig

    url, budget, window, until, tasks, seed = sys.argv[1], *map(float, sys.argv[2:])

    async def main():
        limiter = AsyncRedisRateLimiter(
            url, config=RateLimitConfig(max_tokens_per_minute=int(budget), window_seconds=window), on_outage="raise"
        )
        chance, charges = random.Random(seed), []

        async def spend():
            while time.time() < until:
                tokens, sent = chance.randrange(1, max(2, int(budget) // 100)), time.time()
                decision = await limiter.consume("u", tokens)
                if decision.allowed:
                    charges.append((sent, time.time(), tokens))
                else:
                    await asyncio.sleep(min(decision.retry_after_seconds, 0.05))

        await limiter.peek("u")
        await asyncio.gather(*(spend() for _ in range(int(tasks))))
        print(json.dumps(charges))

    asyncio.run(main())
"""


def saturate(url: str, *, processes: int, tasks: int, budget: int, window: float, until: float) -> list[list[float]]:
    """Charges of all processes: sent, answered (seconds since the epoch), tokens."""
    command = [sys.executable, "-c", textwrap.dedent(SPENDER), url, str(budget), str(window), str(until), str(tasks)]
    running = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(processes)
    ]
    charges = [charge for each in running for charge in json.loads(each.communicate(timeout=90)[0])]
    assert all(each.returncode == 0 for each in running)
    return sorted(charges)


def surely_over(charges: list[list[float]], window: float, budget: int) -> bool:
    """Whether some window held too much, whenever between sending and answer each charge was made."""
    for index, (sent, _, _) in enumerate(charges):
        spent = sum(tokens for _, answered, tokens in charges[index:] if answered < sent + window)
        if spent > budget:
            return True
    return False


@pytest.mark.parametrize(
    ("processes", "tasks", "windows"),
    [(2, 8, 3), pytest.param(8, 32, 4, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
def test_many_processes_get_the_budget_of_one_user_and_no_more(
    any_server: Server, processes: int, tasks: int, windows: int
):
    budget, window, start_up = (10_000, 1.0, 2.5) if processes == 2 else (10_000, 3.0, 15.0)
    for _ in range(3):
        until = asyncio.run(_now(any_server)) + start_up + windows * window
        charges = saturate(any_server.url, processes=processes, tasks=tasks, budget=budget, window=window, until=until)
        assert not surely_over(charges, window, budget)
        # From the first charge on, the whole budget is wanted all the time: in n windows n budgets can pass, and do,
        # unless the machine has let the spenders wait.
        began = charges[0][0]
        whole = math.floor((until - began) / window)
        spent = sum(tokens for sent, _, tokens in charges if sent < began + whole * window)
        if whole >= 2 and spent >= 0.99 * whole * budget:
            return
    pytest.fail(f"{spent} tokens in {whole} windows of {budget}")


def test_replicas_that_spend_slices_of_the_budget_do_not_overspend_it(any_server: Server):
    """When a slice is spent, only its replica knows: here the test, to some microseconds."""
    budget, window = 2_000, 0.4
    config, leases = RateLimitConfig(max_tokens_per_minute=budget, window_seconds=window), BudgetLeases(seconds=0.1)
    charges: list[list[float]] = []

    async def spend(limiter: AsyncRedisRateLimiter, until: float, chance: random.Random) -> None:
        while (sent := time.monotonic()) < until:
            tokens = chance.randrange(1, 10)
            decision = await limiter.consume("u", tokens)
            if decision.allowed:
                charges.append([sent, time.monotonic(), tokens])
            await asyncio.sleep(0 if decision.allowed else min(decision.retry_after_seconds, 0.01))

    async def main() -> None:
        replicas = [
            AsyncRedisRateLimiter(any_server.url, config=config, budget_leases=leases, on_outage="raise") for _ in "abc"
        ]
        until = time.monotonic() + 5 * window
        await asyncio.gather(*(spend(replicas[n % 3], until, random.Random(n)) for n in range(12)))

    asyncio.run(main())
    assert not surely_over(sorted(charges), window, budget)
    assert sum(tokens for _, _, tokens in charges) > 2 * budget
    at_once = sum(answered - sent < 0.0001 for sent, answered, _ in charges)
    assert at_once > len(charges) / 4, "many were spent without asking"


async def _now(server: Server) -> float:
    seconds, microseconds = server.command("TIME")
    return int(seconds) + int(microseconds) / 1e6


# --- without Redis ---------------------------------------------------------------------------------------------------

FACES = ["async url", "blocking url", "aio of url"]
LIMITS = RateLimitConfig(max_tokens_per_minute=100, max_requests_per_minute=10, max_concurrent=1)


@pytest.fixture(params=FACES)
def make(request: pytest.FixtureRequest, proxy: Proxy) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(request.param, proxy, stack)


def test_a_reservation_without_redis_is_a_decision_of_this_process(make: Maker, proxy: Proxy):
    limiter = make("limiter", config=LIMITS, local_share=0.5, options=BRIEF)
    with proxy.refusing():
        with limiter.reserve("u", 30) as reservation:
            assert (reservation.decision.allowed, reservation.decision.degraded) == (True, True)
            assert limiter.reserve("u", 21).decision.violated == "tokens_per_window"
            assert reservation.settle(10) is False, "it is never told to the server, nor taken back"
        with pytest.raises(RateLimitExceeded) as caught, limiter.reserve("u", 21):
            pass
        assert caught.value.decision.degraded
        assert [limiter.consume("v", 1).allowed for _ in range(6)] == [True] * 5 + [False], "requests are shared, too"
        assert limiter.consume("v", 1).violated == "requests_per_minute"
        assert [each.degraded for each in limiter.consume_many([("w", 1), ("w", 50)])] == [True, True]
    wait_until(lambda: not limiter.peek("u").degraded, what="Redis deciding again")
    assert limiter.get_remaining("u") == 100


def test_a_settlement_that_did_not_get_through_may_be_tried_again(make: Maker, proxy: Proxy):
    limiter = make("limiter", config=LIMITS, options=BRIEF)
    reservation = limiter.reserve("u", 60)
    with proxy.refusing():
        assert reservation.settle(10) is False
        assert reservation.settle(10) is False
    wait_until(lambda: reservation.settle(10), what="the settlement getting through")
    assert limiter.get_remaining("u") == 90


def test_a_block_that_is_left_without_redis_raises_nothing_of_its_own(make: Maker, proxy: Proxy):
    limiter = make("limiter", config=LIMITS, on_outage="raise", options=BRIEF)
    with limiter.reserve("u", 60):
        proxy.shut()
    with pytest.raises(StoreUnavailable):
        limiter.reserve("u", 1)
    with pytest.raises(StoreUnavailable):
        limiter.wait("u", 1, timeout_seconds=5)
    proxy.reopen()


@pytest.mark.parametrize(("policy", "allowed"), [("allow", True), ("deny", False), ("local", True)])
def test_waiting_without_redis_is_decided_by_the_policy(make: Maker, proxy: Proxy, policy: str, allowed: bool):
    limiter = make("limiter", config=LIMITS, on_outage=policy, options=BRIEF)
    limiter.consume("u", 50)
    with proxy.refusing():
        decision = limiter.wait("u", 60, timeout_seconds=0.3)
        assert (decision.allowed, decision.degraded) == (allowed, True)


def test_who_waits_through_an_outage_is_served_after_it(make: Maker, proxy: Proxy):
    limiter = make("limiter", config=LIMITS, on_outage="deny", options=BRIEF)
    proxy.shut()
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(limiter.wait, "u", 60, timeout_seconds=30)
        wait_until(lambda: limiter.peek("u").degraded, what="the outage being noticed")
        proxy.reopen()
        decision = waiting.result(30)
    assert (decision.allowed, decision.degraded) == (True, False)


# --- waiting ---------------------------------------------------------------------------------------------------------


def waiting(server: Server) -> int:
    return sum(server.command("ZCARD", key) for key in server.command("KEYS", "*:queue"))


def test_who_came_first_is_served_first_on_whatever_replica(make: Maker, any_server: Server):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.5)
    replicas = [make("limiter", config=config, on_outage="raise") for _ in range(2)]
    served: list[int] = []

    def wait(number: int, tokens: int) -> None:
        assert replicas[number % 2].wait("u", tokens, timeout_seconds=30).allowed
        served.append(number)

    replicas[0].consume("u", 70)
    with ThreadPoolExecutor(4) as waiters:
        futures = []
        # No two of them fit into one window: who is served first also writes first.
        for number, tokens in enumerate([100, 60, 70, 100]):
            futures.append(waiters.submit(wait, number, tokens))
            wait_until(lambda: waiting(any_server) > number or served, what="its place in the queue")
        for future in futures:
            future.result(30)
    assert served == [0, 1, 2, 3]


def test_behind_a_dead_waiter_the_others_do_not_ask_all_the_time(any_server: Server, proxy: Proxy):
    async def main() -> int:
        limiter = AsyncRedisRateLimiter(proxy.url, config=LIMITS, on_outage="raise")
        dead = calls.wait_turn(limiter._scope("u"), identity=b"d" * 16, tokens=1, longest_ms=2000, remembered_ms=1)
        await limiter.consume("u", 100)
        await limiter._port.run(dead)
        await limiter.reset("u")
        before = proxy.commands.total()
        waited = await asyncio.gather(*(limiter.wait("u", 1, timeout_seconds=30) for _ in range(9)))
        assert all(decision.allowed for decision in waited)
        return proxy.commands.total() - before

    assert asyncio.run(main()) < 25 * 9


# --- cancelled tasks -------------------------------------------------------------------------------------------------


def test_a_cancelled_waiter_leaves_the_queue(any_server: Server):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=1.0)

    async def main() -> list[str]:
        limiter = AsyncRedisRateLimiter(any_server.url, config=config, on_outage="raise")
        await limiter.consume("u", 60)
        first = asyncio.create_task(limiter.wait("u", 100, timeout_seconds=30))
        while not any_server.command("KEYS", "*queue"):  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
        second = asyncio.create_task(limiter.wait("u", 30, timeout_seconds=30))
        while any_server.command("ZCARD", any_server.command("KEYS", "*queue")[0]) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert (await second).allowed
        return any_server.command("KEYS", "*queue*")

    assert asyncio.run(main()) == []


@pytest.mark.cell("cancellation storm", "limiter")
def test_a_cancelled_task_keeps_its_charge_and_frees_its_slot(any_server: Server):
    config = RateLimitConfig(max_tokens_per_minute=100, max_concurrent=1)

    async def main() -> None:
        limiter = AsyncRedisRateLimiter(any_server.url, config=config, on_outage="raise")
        entered = asyncio.Event()

        async def stream() -> None:
            async with limiter.reserve("u", 60):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(stream())
        await entered.wait()
        assert (await limiter.reserve("u", 1)).decision.violated == "concurrent"
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await limiter.get_remaining("u") == 40
        assert (await limiter.reserve("u", 1)).decision.allowed

    asyncio.run(main())


def test_a_reservation_is_made_once(any_server: Server):
    """A second time would be the same operation, for free."""

    async def main() -> None:
        limiter = AsyncRedisRateLimiter(any_server.url, config=LIMITS, on_outage="raise")
        pending = limiter.reserve("u", 60)
        async with pending:
            with pytest.raises(InvalidValueError, match="once"):
                async with pending:
                    pytest.fail("entered again")
            with pytest.raises(InvalidValueError, match="once"):
                await pending
        with pytest.raises(InvalidValueError, match="once"):
            await pending
        assert await limiter.get_remaining("u") == 40

    asyncio.run(main())


def test_a_forgotten_await_of_a_reservation_is_no_permission(any_server: Server):
    limiter = AsyncRedisRateLimiter(any_server.url, config=LIMITS, on_outage="raise")
    with pytest.raises(InvalidTypeError, match="awaited"):
        bool(limiter.reserve("u", 60))


def test_a_reservation_that_is_cancelled_before_it_is_there_leaves_nothing(any_server: Server, proxy: Proxy):
    config = RateLimitConfig(max_tokens_per_minute=100, max_concurrent=1)

    async def main() -> None:
        limiter = AsyncRedisRateLimiter(proxy.url, config=config, on_outage="raise")
        await limiter.peek("u")
        proxy.faults(delay_seconds=0.2)
        task = asyncio.create_task(limiter.reserve("u", 60).made())
        while not any_server.command("KEYS", "*:leases"):  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        proxy.faults()
        assert (await limiter.reserve("u", 100)).decision.allowed

    asyncio.run(main())


# --- parents in slots of their own -----------------------------------------------------------------------------------


def test_owners_that_no_script_reaches_together_are_asked_apart_and_refunded(any_server: Server):
    """As in a cluster, over one server: `tests/transport_topologies` has the real one."""
    config = RateLimitConfig(max_tokens_per_minute=1_000, max_requests_per_minute=5, max_concurrent=1)
    parents = ["org", RateLimitParent("model", RateLimitConfig(max_tokens_per_minute=300, key_prefix="models"))]
    with ExitStack() as stack:
        limiter = Maker("blocking url", any_server, stack)("limiter", config=config, on_outage="raise")
        limiter._core._clustered = True
        assert limiter.consume("u", 200, parents=parents, request_id="r").remaining == 100
        assert limiter.consume("u", 200, parents=parents, request_id="r").remaining == 100
        refused = limiter.consume("u", 101, parents=parents, request_id="s")
        assert (refused.allowed, refused.violated, refused.remaining) == (False, "parents[1].tokens_per_window", 100)
        assert [limiter.get_remaining(owner) for owner in ("u", "org")] == [800, 800]
        for _ in range(10):
            assert not limiter.consume("u", 101, parents=parents).allowed, "requests were refunded, too"
        reservation = limiter.reserve("u", 100, parents=parents)
        assert reservation.decision.allowed
        assert limiter.reserve("v", 1, parents=parents).decision.violated == "parents[0].concurrent"
        assert limiter.reserve("v", 1).decision.allowed, "its own slot was given back"
        assert reservation.settle(50)
        assert [limiter.get_remaining(owner) for owner in ("u", "org")] == [750, 750]
        assert limiter.consume("u", 50, parents=parents, request_id="s").allowed, "a refused name may try again"


def test_what_a_concurrent_retry_counts_on_is_not_undone(any_server: Server):
    """One attempt was refused by the parent and is about to undo the user's charge; the next one finds that charged."""
    config = RateLimitConfig(max_tokens_per_minute=100)
    org = RateLimitParent("org", RateLimitConfig(max_tokens_per_minute=100, key_prefix="orgs"))

    async def main() -> None:
        first, second = (AsyncRedisRateLimiter(any_server.url, config=config, on_outage="raise") for _ in "ab")
        first._clustered = second._clustered = True
        owner = AsyncRedisRateLimiter(any_server.url, config=org.config, on_outage="raise")
        await owner.consume("org", 50)
        undo, about_to, may = first._port.cleanup, asyncio.Event(), asyncio.Event()

        async def late(work: Callable, *, seconds: float) -> None:
            about_to.set()
            await may.wait()
            await undo(work, seconds=seconds)

        first._port.cleanup = late
        refused = asyncio.create_task(first.consume("u", 100, request_id="r", parents=[org]))
        await about_to.wait()
        await owner.reset("org")
        assert (await second.consume("u", 100, request_id="r", parents=[org])).allowed
        may.set()
        assert not (await refused).allowed
        assert await second.get_remaining("u") == 0

    asyncio.run(main())
