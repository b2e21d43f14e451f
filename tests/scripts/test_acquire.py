"""`acquire.lua`, `settle.lua`, `renew.lua`, `peek_all.lua` against exact windows, on random and adversarial schedules.

Each schedule runs on all servers at hand, which must answer alike. The tests bring their own clock.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limiter_driver import START_US
from limiter_model import worst_window
from redis import Redis
from servers import Servers
from windows_driver import LimitsUser
from windows_model import ExactLimits

HOUR_US = 3_600_000_000
LEASE_MS = 700

each = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def clients(servers: Servers) -> Iterator[list[Redis]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(server.client()) for server in servers.values()]


class Step(NamedTuple):
    """One call, ``gap_us`` after the one before, about the operation of that number; ``used`` is what it settles to."""

    gap_us: int
    jump_us: int
    action: str
    operation: int
    cost: int
    used: int


TOKENS = 100
BUDGETS = [(TOKENS, 1000), (4, 600), (150, 2500)]
"""Tokens of a window, requests, tokens of a longer window."""


@st.composite
def schedules(draw: st.DrawFn, *, jumps: tuple[int, ...] = (0,), most: int = 40) -> list[Step]:
    """Operations are acquired, and a while later settled, cancelled, renewed or sent again."""
    edges = st.tuples(st.sampled_from([600, 1000, 2500, LEASE_MS]), st.integers(-1001, 1001))
    gaps = st.one_of(
        st.integers(0, 3000),
        st.integers(0, 100_000),
        st.integers(0, 400_000),
        edges.map(lambda edge: edge[0] * 1000 + edge[1]),
        st.integers(0, 1_500_000),
    )
    later = st.sampled_from(["settle"] * 4 + ["cancel", "renew", "repeat", "reset"])
    steps: list[Step] = []
    made: list[Step] = []
    for number in range(draw(st.integers(1, most))):
        jump = draw(st.sampled_from(jumps))
        if not made or draw(st.booleans()):
            cost = draw(st.integers(1, 40) | st.sampled_from([1, 30, TOKENS, TOKENS + 1]))
            steps.append(Step(draw(gaps), jump, "acquire", number, cost, 0))
            made.append(steps[-1])
        else:
            old = draw(st.sampled_from(made[-6:]))
            used = draw(st.sampled_from([0, 1, old.cost, old.cost + 1, 2 * TOKENS]) | st.integers(0, old.cost))
            steps.append(Step(draw(gaps), jump, draw(later), old.operation, old.cost, used))
    return steps


class Run:
    """One schedule on the servers and in the model; ``exact``: every answer must be the model's."""

    def __init__(self, user: LimitsUser, *, exact: bool = True) -> None:
        self.user, self.exact = user, exact
        self.model = ExactLimits(user.budgets, user.slots)
        self.now, self.elapsed = START_US, 0
        self.settlements = count()
        self.costs: dict[int, list[int]] = {}
        self.charged: dict[int, tuple[int, list[int]]] = {}

    def perform(self, step: Step) -> None:
        self.now += step.gap_us + step.jump_us
        self.elapsed += step.gap_us + max(0, step.jump_us)
        if step.action in ("acquire", "repeat"):
            self._acquire(step)
        elif step.action == "reset":
            self.user.reset()
            self.model.reset()
            self.charged.clear()
        elif step.operation in self.model.operations:
            self._change(step)

    def _acquire(self, step: Step) -> None:
        costs = self.costs.setdefault(step.operation, [step.cost, 1, step.cost])
        if self.exact:
            assert self.user.peek(self.now, costs) == self.model.peek(self.now, costs)
        known = self.model.operations.get(step.operation)
        before = self.user.stored(step.operation)
        answer = self.user.acquire(self.now, costs, step.operation, LEASE_MS)
        if self.exact:
            assert answer == self.model.acquire(self.now, costs, step.operation, LEASE_MS)
        if answer.admitted == 1:
            assert known is None or known.cancelled
            self.charged[step.operation] = (self.elapsed, list(costs))
        if not answer.admitted and self.exact:
            assert self.user.stored(step.operation) == before, "a refusal writes nothing"

    def _change(self, step: Step) -> None:
        costs = self.costs[step.operation]
        if step.action == "renew":
            if self.user.slots is not None:
                held = self.user.renew(self.now, step.operation, LEASE_MS)
                assert held == self.model.renew(self.now, step.operation, LEASE_MS)
            return
        actual = [0, 0, 0] if step.action == "cancel" else [step.used, 1, step.used]
        cancels = step.action == "cancel"
        mark = f"{'x' if cancels else 'c'}{next(self.settlements)}"
        counted, refunds, _ = self.model.settle(self.now, actual, step.operation, cancelled=cancels)
        assert self.user.settle(self.now, costs, actual, step.operation, mark=mark) == counted
        if counted:
            assert self.user.settle(self.now, costs, actual, step.operation, mark=mark), "sent again, it is recognised"
        if step.operation in self.charged:
            at, net = self.charged[step.operation]
            self.charged[step.operation] = at, [was - back for was, back in zip(net, refunds, strict=True)]

    def worst(self) -> list[tuple[int, int]]:
        """For each limit the most that was charged in a window, net of refunds and without overruns, and the limit."""
        return [
            (worst_window([(at, net[place]) for at, net in self.charged.values()], window_ms), limit)
            for place, (limit, window_ms) in enumerate(self.user.budgets)
        ]


@each
@given(steps=schedules(), slots=st.sampled_from([None, 1, 3]))
def test_below_the_entry_cap_every_answer_is_that_of_exact_windows(clients: list[Redis], steps: list[Step], slots: int):
    run = Run(LimitsUser(*clients, budgets=BUDGETS, slots=slots))
    for step in steps:
        run.perform(step)
    assert all(worst <= limit for worst, limit in run.worst())


def test_a_schedule_in_fakeredis():
    run = Run(LimitsUser(fakeredis.FakeRedis(), budgets=BUDGETS, slots=2))
    for number in range(40):
        action = ("acquire", "settle", "acquire", "renew", "cancel", "repeat")[number % 6]
        run.perform(Step(37_001 * (number % 7), 0, action, number // 3, 1 + 7 * number % 50, number % 13))
    assert len(run.charged) > 5


@each
@given(steps=schedules())
def test_a_refusal_names_the_ms_at_which_all_limits_would_admit_it(clients: list[Redis], steps: list[Step]):
    run = Run(LimitsUser(*clients, budgets=BUDGETS))
    for step in steps:
        run.perform(step)
        costs = [step.cost, 1, step.cost]
        answer = run.user.peek(run.now, costs)
        if answer.admitted or answer.retry_after_ms < 0:
            assert (answer.retry_after_ms < 0) == (step.cost > TOKENS)
            continue
        retry_us = answer.retry_after_ms * 1000
        assert run.user.peek(run.now + retry_us, costs).admitted
        earlier = run.user.peek(run.now + retry_us - 1000, costs)
        assert not earlier.admitted
        assert earlier.refused == answer.refused or earlier.retry_after_ms == 1


BACKWARD, FORWARD = (0, 0, 0, -1, -1_500_000, -5_000_000, -HOUR_US), (0, 0, 0, 1, 700_000, 5_000_000, HOUR_US)


@pytest.mark.parametrize("jumps", [BACKWARD, FORWARD, BACKWARD + FORWARD], ids=["backward", "forward", "both"])
@each
@given(data=st.data())
def test_a_stepping_clock_never_admits_too_much(clients: list[Redis], jumps: tuple[int, ...], data: st.DataObject):
    """Nor does a refund, wherever the clock went between: what it gives back is taken from the charge it belongs to."""
    cap = data.draw(st.sampled_from([4, 7, 120]))
    user = LimitsUser(*clients, budgets=BUDGETS, cap=cap)
    now, elapsed = START_US, 0
    charged: dict[int, tuple[int, list[int]]] = {}
    closed: set[int] = set()
    for step in data.draw(schedules(jumps=jumps)):
        now += step.gap_us + step.jump_us
        elapsed += step.gap_us + max(0, step.jump_us)
        costs = [step.cost, 1, step.cost]
        if step.action == "acquire":
            if user.acquire(now, costs, step.operation).admitted:
                charged[step.operation] = elapsed, costs
        elif step.action in ("settle", "cancel") and step.operation in charged and step.operation not in closed:
            closed.add(step.operation)
            at, costs = charged[step.operation]
            actual = [min(step.used, costs[0]), 1, min(step.used, costs[0])] if step.action == "settle" else [0, 0, 0]
            before = list(user.peek(now, [0, 0, 0]).remaining)
            user.settle(now, costs, actual, step.operation)
            after = user.peek(now, [0, 0, 0]).remaining
            # Whatever was not given back stays charged: the net charge is what the log says it is.
            given_back = [new - old for new, old in zip(after, before, strict=True)]
            assert all(0 <= back <= cost - used for back, cost, used in zip(given_back, costs, actual, strict=True))
            charged[step.operation] = at, [cost - back for cost, back in zip(costs, given_back, strict=True)]
    for place, (limit, window_ms) in enumerate(BUDGETS):
        assert worst_window([(at, net[place]) for at, net in charged.values()], window_ms) <= limit


@pytest.mark.parametrize("cap", [5, 120])
def test_small_steps_back_at_the_edge_of_a_window_never_refund_anothers_charge(clients: list[Redis], cap: int):
    """What a rewrite has dropped looks young again by a clock that has stepped back: the log must know better."""
    chance = random.Random(cap)
    for _ in range(60):
        user, now, elapsed = LimitsUser(*clients[:1], budgets=[(TOKENS, 1000)], cap=cap), START_US, 0
        charged: dict[int, list[int]] = {}
        unsettled: list[int] = []
        for number in range(40):
            gap_us = chance.choice([1_000, 30_000, 300_000, 1_001_000]) + chance.randrange(1000)
            elapsed += gap_us
            now += gap_us - chance.choice([0, 0, 0, 150_000, 400_000])
            if chance.random() < 0.5 or not unsettled:
                cost = chance.randrange(1, 50)
                if user.acquire(now, [cost], number).admitted:
                    charged[number] = [elapsed, cost]
                    unsettled.append(number)
            else:
                operation = unsettled.pop(chance.choice([0, -1]))
                user.settle(now, [charged[operation][1]], [0], operation)
                charged[operation][1] = 0
            live = sum(net for at, net in charged.values() if at > elapsed - 1_000_000)
            assert user.peek(now, [0]).remaining[0] <= TOKENS - live


@each
@given(steps=schedules(most=60), cap=st.integers(4, 10))
def test_full_logs_stay_on_the_safe_side(clients: list[Redis], steps: list[Step], cap: int):
    """Merged entries hold the charges of several operations: a refund takes no more from one than belongs to it."""
    budgets = [(TOKENS, 1000), (40, 600), (150, 2500)]
    user, model = LimitsUser(*clients, budgets=budgets, cap=cap), ExactLimits(budgets, None)
    now, charged, costs_of = START_US, {}, {}
    for step in steps:
        now += step.gap_us // 4
        costs = costs_of.setdefault(step.operation, [1 + step.cost // 10, 1, 1 + step.cost // 10])
        if step.action in ("acquire", "repeat"):
            answer = user.acquire(now, costs, step.operation)
            if answer.admitted == 1:
                model.operations.pop(step.operation, None)
                for window, cost in zip(model.windows, costs, strict=True):
                    assert window.look(now, cost)[0] >= cost, "the exact windows would admit it, too"
                model.acquire(now, costs, step.operation, LEASE_MS)
                charged[step.operation] = now, list(costs)
        elif step.action in ("settle", "cancel") and step.operation in charged:
            actual = [min(step.used, costs[0]), 1, min(step.used, costs[0])]
            counted, refunds, _ = model.settle(now, actual, step.operation)
            assert user.settle(now, costs, actual, step.operation) == counted
            at, net = charged[step.operation]
            charged[step.operation] = at, [was - back for was, back in zip(net, refunds, strict=True)]
        assert user.entries() <= cap
        exact = model.peek(now, [0, 0, 0]).remaining
        assert all(room <= most for room, most in zip(user.peek(now, [0, 0, 0]).remaining, exact, strict=True))
    for place, (limit, window_ms) in enumerate(budgets):
        assert worst_window([(at, net[place]) for at, net in charged.values()], window_ms) <= limit
