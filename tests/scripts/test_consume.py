"""`consume.lua` and `peek.lua` against an exact log, on random and adversarial schedules.

Each schedule runs on all servers at hand, which must answer alike. The tests bring their own clock (the scripts' last
argument), so that minutes pass in milliseconds and every run is the same.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiter_driver import CAP, START_US, ScriptUser, run_all
from limiter_model import ExactLog, worst_window
from redis import Redis
from servers import Server, Servers

HOUR_US = 3_600_000_000
MAX_TOKENS = 2**53 - 1

each = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def clients(servers: Servers) -> Iterator[list[Redis]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(server.client()) for server in servers.values()]


class Step(NamedTuple):
    """One call, ``gap_us`` after the one before. ``operation`` is its number; an old number is a repetition."""

    gap_us: int
    limit: int
    window_ms: int
    cost: int
    operation: int
    jump_us: int = 0


@st.composite
def schedules(
    draw: st.DrawFn,
    *,
    windows: tuple[int, ...] = (),
    limits: tuple[int, ...] = (1, 10, 1000, 1_000_000),
    jumps: st.SearchStrategy[int] | None = None,
    most: int = 40,
) -> list[Step]:
    """Calls of one user. Without ``windows``, all of them have one limit and one window."""
    fixed = draw(st.sampled_from([50, 1000, 60_000]))
    limit = draw(st.sampled_from(limits))
    steps: list[Step] = []
    for number in range(draw(st.integers(1, most))):
        window = draw(st.sampled_from(windows)) if windows else fixed
        if windows:
            limit = draw(st.sampled_from(limits))
        # Bursts, the two edges of the window to the microsecond, anything else.
        edge = st.integers(-1001, 1001).map(lambda around, window=window: window * 1000 + around)
        gap = draw(st.integers(0, 3000) | edge | st.integers(0, 1_500 * window))
        cost = draw(st.sampled_from([1, limit, limit + 1, max(1, limit // 3)]) | st.integers(1, limit))
        repeats = number > 0 and draw(st.integers(0, 5)) == 0
        operation = draw(st.integers(0, number - 1)) if repeats else number
        jump = draw(jumps) if jumps is not None and draw(st.integers(0, 4)) == 0 else 0
        steps.append(Step(gap, limit, window, min(cost, MAX_TOKENS), operation, jump))
    return steps


@each
@given(steps=schedules())
def test_below_the_entry_cap_every_decision_is_that_of_the_exact_log(clients: list[Redis], steps: list[Step]):
    user, exact, now, charged = ScriptUser(*clients), ExactLog(), START_US, []
    for step in steps:
        now += step.gap_us
        repeated = step.operation in exact.operations
        asked = user.peek(now, step.limit, step.window_ms, step.cost)
        assert asked == exact.peek(now, step.limit, step.window_ms, step.cost)
        decision = user.consume(now, step.limit, step.window_ms, step.cost, step.operation)
        assert decision == exact.consume(now, step.limit, step.window_ms, step.cost, step.operation)
        if decision.admitted and not repeated:
            charged.append((now, step.cost))
    assert worst_window(charged, steps[0].window_ms) <= steps[0].limit


@each
@given(steps=schedules(limits=(10, 1000)))
def test_a_refusal_writes_nothing_and_names_the_ms_at_which_it_would_pass(clients: list[Redis], steps: list[Step]):
    user, now = ScriptUser(*clients), START_US
    for step in steps:
        now += step.gap_us
        budget = (step.limit, step.window_ms)
        before = user.stored(step.operation)
        decision = user.consume(now, *budget, step.cost, step.operation)
        assert 0 <= decision.remaining <= step.limit
        if decision.admitted:
            continue
        assert user.stored(step.operation) == before
        if step.cost > step.limit:
            assert decision.retry_after_ms == -1
            continue
        retry = decision.retry_after_ms
        assert 1 <= retry <= decision.reset_after_ms <= step.window_ms + 1
        assert user.peek(now + retry * 1000, *budget, step.cost).admitted
        assert not user.peek(now + (retry - 1) * 1000, *budget, step.cost).admitted
        assert user.peek(now + decision.reset_after_ms * 1000, *budget).remaining == step.limit
        assert user.stored(step.operation) == before


backward = st.integers(-10_000, 0).map(lambda ms: ms * 1000) | st.sampled_from([-HOUR_US, -1, -2_000_000, -2_001_000])
forward = st.integers(0, 10_000).map(lambda ms: ms * 1000) | st.sampled_from([HOUR_US, 1])


@pytest.mark.parametrize("jumps", [backward, forward, backward | forward], ids=["backward", "forward", "both"])
@each
@given(data=st.data())
def test_a_stepping_clock_never_admits_too_much(
    clients: list[Redis], jumps: st.SearchStrategy[int], data: st.DataObject
):
    # `elapsed` is real time where the clock only steps back, and server time where it only steps forward. With both it
    # is the time that the clock has shown to pass, of which the guarantee then speaks.
    steps, cap = data.draw(schedules(jumps=jumps)), data.draw(st.sampled_from([4, 7, CAP]))
    user, exact, clock, elapsed, charged = ScriptUser(*clients, cap=cap), ExactLog(), START_US, 0, []
    for step in steps:
        clock += step.gap_us + step.jump_us
        elapsed += step.gap_us + max(0, step.jump_us)
        expected = exact.peek(clock, step.limit, step.window_ms, step.cost)
        decision = user.consume(clock, step.limit, step.window_ms, step.cost)
        # Nothing is held that the exact log does not hold; it never forgets, so what was dead may be alive in it again.
        assert cap < CAP or decision.admitted >= expected.admitted
        exact.restamp(clock)
        if decision.admitted:
            exact.charge(clock, step.cost)
            charged.append((elapsed, step.cost))
        elif decision.retry_after_ms > 0:
            assert decision.retry_after_ms <= step.window_ms + 2001
            assert user.peek(clock + decision.retry_after_ms * 1000, step.limit, step.window_ms, step.cost).admitted
    assert worst_window(charged, steps[0].window_ms) <= steps[0].limit


@each
@given(steps=schedules(limits=(1000,), most=60), cap=st.integers(4, 12))
def test_a_full_log_merges_to_the_safe_side(clients: list[Redis], steps: list[Step], cap: int):
    user, exact, now, charged = ScriptUser(*clients, cap=cap), ExactLog(), START_US, []
    for step in steps:
        now, cost = now + step.gap_us, 1 + step.cost // 20
        expected = exact.peek(now, step.limit, step.window_ms, cost)
        asked = user.peek(now, step.limit, step.window_ms, cost)
        assert asked.remaining <= expected.remaining
        assert asked.retry_after_ms >= expected.retry_after_ms
        decision = user.consume(now, step.limit, step.window_ms, cost)
        assert decision.admitted == asked.admitted
        assert user.entries() <= cap
        if decision.admitted:
            exact.charge(now, cost)
            charged.append((now, cost))
    assert worst_window(charged, steps[0].window_ms) <= steps[0].limit


def guaranteed(charges: list[tuple[int, int]], window_ms: int, now_us: int) -> bool:
    """Whether the window has been in use without a break for its own length; charges are (time µs, window ms)."""
    until = now_us
    for time_us, window in reversed(charges):
        if until - time_us >= window_ms * 1000 - 1000:
            return False
        if window >= window_ms:
            until = time_us
        if now_us - until >= window_ms * 1000 + 1000:
            return True
    return False


@each
@given(steps=schedules(windows=(300, 1000, 2500), limits=(100, 1000), most=60))
def test_windows_in_use_lose_nothing_when_others_are_shorter(clients: list[Redis], steps: list[Step]):
    user, exact, now, charges = ScriptUser(*clients), ExactLog(), START_US, []
    for step in steps:
        now += min(step.gap_us, 400_000)
        cost = 1 + step.cost // 50
        expected = exact.peek(now, step.limit, step.window_ms, cost)
        asked = user.peek(now, step.limit, step.window_ms, cost)
        # What only a longer window needs may be gone if no such window is in use, and then only for the user's good.
        assert asked.remaining >= expected.remaining
        if guaranteed(charges, step.window_ms, now):
            assert asked == expected
        if user.consume(now, step.limit, step.window_ms, cost).admitted:
            exact.charge(now, cost)
            charges.append((now, step.window_ms))


@each
@given(steps=schedules(limits=(MAX_TOKENS, MAX_TOKENS - 1, 2**52)))
def test_totals_stay_exact_at_the_end_of_the_integers(clients: list[Redis], steps: list[Step]):
    user, exact, now = ScriptUser(*clients), ExactLog(), START_US
    for step in steps:
        now += step.gap_us
        decision = user.consume(now, step.limit, step.window_ms, step.cost, step.operation)
        assert decision == exact.consume(now, step.limit, step.window_ms, step.cost, step.operation)


# At the real entry cap: long schedules, one server, many calls in one round trip


@pytest.mark.parametrize("cost", [2, 10, 100], ids=lambda cost: f"{cost / 100} % of the budget a call")
@pytest.mark.parametrize("arrivals", ["poisson", "bursts", "steady"])
def test_saturating_demand_gets_99_percent_of_the_exact_log(any_server: Server, arrivals: str, cost: int):
    # Hardly more than can pass is the hard case: with much more, what a merge has held late is taken at once.
    limit, window_ms, windows = 10_000, 60_000, 3
    chance = random.Random(7)
    gap_us = window_ms * 1000 / (1.05 * limit / cost)
    now, times = float(START_US), []
    while now < START_US + windows * window_ms * 1000:
        if arrivals == "bursts":
            now += chance.expovariate(1 / gap_us / 50)
            times += [int(now) + number for number in range(50)]
        else:
            now += gap_us if arrivals == "steady" else chance.expovariate(1 / gap_us)
            times.append(int(now))
    with any_server.client() as client:
        user = ScriptUser(client)
        calls = [user.consume_call(at, limit, window_ms, cost, number) for number, at in enumerate(times)]
        decisions = run_all(client, calls)
        charged = [(at, cost) for at, decision in zip(times, decisions, strict=True) if decision.admitted]
        assert worst_window(charged, window_ms) <= limit
        assert user.entries() <= CAP

    exact = ExactLog()
    for number, at in enumerate(times):
        exact.consume(at, limit, window_ms, cost, number)
    assert len(charged) * cost >= 0.99 * exact.totals[-1]


def test_the_log_stays_below_4_kb(server: Server):
    # Of all servers together more than 10^5 calls; the largest log is seen while it grows, not when it was just merged.
    chance, now = random.Random(11), START_US
    limit, window_ms, most = 1_000_000, 60_000, 0
    with server.client() as client:
        user = ScriptUser(client)
        user.log = f"ractogateway:ratelimit:{{{'f' * 64}}}:log"
        charged = []
        for _ in range(70):
            batch = []
            pace = chance.choice([100, 3_000, 100_000, 2_000_000])
            for _ in range(500):
                now += chance.randrange(2 * pace)
                batch.append((now, chance.choice([1, 100, chance.randrange(1, limit // 50)])))
            calls = [user.consume_call(at, limit, window_ms, cost, f"{at}-{cost}") for at, cost in batch]
            decisions = run_all(client, calls)
            charged += [call for call, decision in zip(batch, decisions, strict=True) if decision.admitted]
            assert all(0 <= decision.remaining <= limit for decision in decisions)
            most = max(most, client.memory_usage(user.log))
        assert worst_window(charged, window_ms) <= limit
    assert most <= 4096
