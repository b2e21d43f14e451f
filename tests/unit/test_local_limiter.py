"""The in-process limiter against the exact log that the scripts are held to."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.limiter_model import Decision, ExactLog, worst_window

from ractogateway.redis._limiter.local_window import LocalBudget, LocalDecision, LocalSlidingWindow

each = settings(max_examples=60, deadline=None, derandomize=True)


class Clock:
    """Seconds, from whole microseconds."""

    def __init__(self, now_us: int = 1_000_000) -> None:
        self.now_us = now_us

    def __call__(self) -> float:
        return self.now_us / 1e6


def in_seconds(decision: Decision) -> LocalDecision:
    retry = math.inf if decision.retry_after_ms < 0 else decision.retry_after_ms / 1000
    return LocalDecision(decision.admitted, decision.remaining, retry, decision.reset_after_ms / 1000)


WINDOW_MS = 1000
LIMIT = 100
gaps_us = st.integers(0, 3000) | st.integers(998_999, 1_001_001) | st.integers(0, 1_500_000)
costs = st.sampled_from([1, LIMIT, LIMIT + 1]) | st.integers(1, LIMIT)


@each
@given(calls=st.lists(st.tuples(gaps_us, costs), max_size=40))
def test_every_decision_is_that_of_the_exact_log(calls: list[tuple[int, int]]):
    clock, exact = Clock(), ExactLog()
    limiter = LocalSlidingWindow(clock)
    for number, (gap_us, cost) in enumerate(calls):
        clock.now_us += gap_us
        asked = limiter.consume("u", cost, LIMIT, WINDOW_MS / 1000, charge=False)
        assert asked == in_seconds(exact.peek(clock.now_us, LIMIT, WINDOW_MS, cost))
        decision = limiter.consume("u", cost, LIMIT, WINDOW_MS / 1000)
        assert decision == in_seconds(exact.consume(clock.now_us, LIMIT, WINDOW_MS, cost, number))


@each
@given(calls=st.lists(st.tuples(gaps_us, st.integers(1, 60)), max_size=40))
def test_several_budgets_are_charged_together_or_not_at_all(calls: list[tuple[int, int]]):
    clock, tokens, requests = Clock(), ExactLog(), ExactLog()
    limiter = LocalSlidingWindow(clock)
    for number, (gap_us, cost) in enumerate(calls):
        clock.now_us += gap_us
        budgets = [LocalBudget("t", cost, LIMIT, WINDOW_MS / 1000), LocalBudget("r", 1, 3, 0.7)]
        expected = [
            tokens.peek(clock.now_us, LIMIT, WINDOW_MS, cost),
            requests.peek(clock.now_us, 3, 700, 1),
        ]
        if all(decision.admitted for decision in expected):
            expected = [
                tokens.consume(clock.now_us, LIMIT, WINDOW_MS, cost, number),
                requests.consume(clock.now_us, 3, 700, 1, number),
            ]
        assert limiter.consume_all(budgets) == [in_seconds(decision) for decision in expected]


@each
@given(calls=st.lists(st.tuples(gaps_us, st.integers(1, 10)), max_size=60), max_entries=st.integers(4, 9))
def test_a_full_log_merges_to_the_safe_side(calls: list[tuple[int, int]], max_entries: int):
    clock, exact, charged = Clock(), ExactLog(), []
    limiter = LocalSlidingWindow(clock, max_entries=max_entries)
    for gap_us, cost in calls:
        clock.now_us += gap_us // 10
        expected = exact.peek(clock.now_us, LIMIT, WINDOW_MS, cost)
        decision = limiter.consume("u", cost, LIMIT, WINDOW_MS / 1000)
        assert len(limiter._logs["u"].entries) <= max_entries + 1
        assert decision.remaining + cost * decision.allowed <= expected.remaining
        if decision.allowed:
            exact.charge(clock.now_us, cost)
            charged.append((clock.now_us, cost))
    assert worst_window(charged, WINDOW_MS) <= LIMIT


@pytest.mark.parametrize("cost", [1, 10, 100])
def test_saturating_demand_gets_97_percent_of_the_exact_log(cost: int):
    chance, clock, exact, charged, limit = random.Random(3), Clock(), ExactLog(), [], 10_000
    limiter = LocalSlidingWindow(clock)
    while clock.now_us < 4 * WINDOW_MS * 1000:
        clock.now_us += round(chance.expovariate(1.05 * limit / cost / (WINDOW_MS * 1000)))
        exact.consume(clock.now_us, limit, WINDOW_MS, cost, clock.now_us)
        if limiter.consume("u", cost, limit, WINDOW_MS / 1000).allowed:
            charged.append((clock.now_us, cost))
    assert worst_window(charged, WINDOW_MS) <= limit
    assert len(charged) * cost >= 0.97 * exact.totals[-1]


def test_a_shorter_window_loses_nothing_of_a_longer_one():
    clock = Clock()
    limiter = LocalSlidingWindow(clock)
    assert limiter.consume("u", 60, 100, 10.0).allowed
    for _ in range(9):
        clock.now_us += 1_000_000
        assert limiter.consume("u", 1, 100, 0.5).remaining == 99
    assert limiter.consume("u", 0, 100, 10.0, charge=False).remaining == 31


def test_keys_are_apart_and_forgotten_by_name():
    limiter = LocalSlidingWindow(Clock())
    assert limiter.consume("a", 100, 100, 1.0).remaining == 0
    assert limiter.consume(b"b", 1, 100, 1.0).remaining == 99
    limiter.forget("a")
    limiter.forget("never seen")
    assert limiter.consume("a", 0, 100, 1.0, charge=False).remaining == 100
    assert limiter.consume(b"b", 0, 100, 1.0, charge=False).remaining == 99


def test_refusals_and_looks_leave_nothing_behind():
    limiter = LocalSlidingWindow(Clock())
    limiter.consume("looked at", 1, 100, 1.0, charge=False)
    assert limiter.consume("refused", 101, 100, 1.0).retry_after_seconds == math.inf
    assert len(limiter) == 0


def test_idle_keys_are_dropped_as_new_ones_come():
    clock = Clock()
    limiter = LocalSlidingWindow(clock)
    for number in range(2000):
        clock.now_us += 10_000  # a hundred keys a window
        limiter.consume(str(number), 1, 100, 1.0)
        assert len(limiter) <= 203
    assert limiter.consume("1999", 0, 100, 1.0, charge=False).remaining == 99


def test_when_all_keys_are_in_use_a_new_one_waits_for_the_first_idle_one():
    clock = Clock()
    limiter = LocalSlidingWindow(clock, max_keys=3)
    for window_seconds in (30.0, 10.0, 20.0):
        assert limiter.consume(str(window_seconds), 1, 100, window_seconds).allowed
    for _ in range(2):
        assert limiter.consume("new", 1, 100, 5.0) == LocalDecision(False, 0, 10.0, 10.0)
    assert limiter.consume("new", 101, 100, 5.0).retry_after_seconds == math.inf
    assert limiter.consume("20.0", 1, 100, 20.0).remaining == 98
    clock.now_us += 10_000_000
    assert limiter.consume("new", 1, 100, 5.0).allowed
    assert len(limiter) == 3
    limiter.forget("new")
    assert limiter.consume("newer", 1, 100, 5.0).allowed


def test_threads_together_get_the_budget_and_no_more():
    limiter = LocalSlidingWindow()

    def spend(_: int) -> int:
        return sum(limiter.consume("u", 7, 10_000, 600.0).allowed for _ in range(400))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            admitted = sum(pool.map(spend, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert admitted == 10_000 // 7


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_child_forked_while_the_lock_is_held_goes_on_from_the_usage_of_its_parent():
    program = """
        import os, threading
        from ractogateway.redis._limiter.local_window import LocalSlidingWindow

        limiter = LocalSlidingWindow()
        limiter.consume("u", 60, 100, 600.0)
        held, done = threading.Event(), threading.Event()

        def hold():
            with limiter._lock:
                held.set()
                done.wait()

        threading.Thread(target=hold).start()
        held.wait()
        child = os.fork()
        if child == 0:
            os._exit(0 if limiter.consume("u", 40, 100, 600.0).remaining == 0 else 1)
        status = os.waitpid(child, 0)[1]
        done.set()
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=20)
