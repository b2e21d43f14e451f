"""`wait_turn.lua` and `leave_queue.lua`: waiters of many replicas, simulated on a clock of the test.

Each simulated waiter asks, sleeps as long as it was told, and asks again, until it is charged, gives up, or dies.
"""

from __future__ import annotations

import contextlib
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import fakeredis
import pytest
from limiter_driver import START_US
from limiter_model import worst_window
from redis import Redis
from servers import Server, Servers
from windows_driver import LimitsUser

MS = 1000
LONGEST_MS, GRACE_MS = 2000, 1000
WINDOW_MS = 5000
BUDGETS = [(100, WINDOW_MS), (8, WINDOW_MS)]


@pytest.fixture(scope="module")
def clients(servers: Servers) -> Iterator[list[Redis]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(server.client()) for server in servers.values()]


@dataclass
class Waiter:
    number: int
    tokens: int
    arrives_ms: int
    patience_ms: int = 10**9
    dies_after: int = 10**9
    """So many commands it sends, and then no more."""
    asked: int = 0
    charged_us: int | None = None
    due: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"waiter {self.number:09}"

    @property
    def lives(self) -> bool:
        return self.asked < self.dies_after


class Queue:
    """Waiters in the order in which they ask. A reply takes up to ``network_ms`` to arrive."""

    def __init__(self, user: LimitsUser, waiters: list[Waiter], *, seed: int, network_ms: float = 1.0) -> None:
        self.user, self.chance, self.network_ms = user, random.Random(seed), network_ms
        self.agenda = [(START_US + waiter.arrives_ms * MS, waiter.number, waiter) for waiter in waiters]
        heapq.heapify(self.agenda)

    def run(self) -> int:
        """Until nobody waits; the number of commands."""
        commands = 0
        while self.agenda:
            now, _, waiter = heapq.heappop(self.agenda)
            if not waiter.lives:
                continue
            if now >= START_US + (waiter.arrives_ms + waiter.patience_ms) * MS:
                assert self.user.leave(waiter.name, waiter.tokens)
                continue
            commands += 1
            waiter.asked += 1
            sleep_ms, answer = self.user.wait_turn(
                now, [waiter.tokens, 1], waiter.name, longest_ms=LONGEST_MS, by_request=2
            )
            if answer.admitted:
                assert sleep_ms == 0
                waiter.charged_us = now
            else:
                assert 1 <= sleep_ms <= LONGEST_MS
                latency = self.chance.uniform(0, self.network_ms) * MS
                heapq.heappush(self.agenda, (now + sleep_ms * MS + round(latency), waiter.number, waiter))
        return commands


def crowd(chance: random.Random, size: int, *, within_ms: int = 3000) -> list[Waiter]:
    times = sorted(chance.randrange(within_ms) for _ in range(size))
    return [Waiter(number, chance.choice([1, 5, 20, 60, 100]), arrives_ms) for number, arrives_ms in enumerate(times)]


def in_order(waiters: list[Waiter]) -> bool:
    served = sorted((w for w in waiters if w.charged_us is not None), key=lambda w: (w.charged_us, w.number))
    return [w.number for w in served] == sorted(w.number for w in served)


@pytest.mark.parametrize("seed", range(4))
def test_first_come_first_served_within_the_limits(clients: list[Redis], seed: int):
    user, waiters = LimitsUser(*clients, budgets=BUDGETS), crowd(random.Random(seed), 30)
    Queue(user, waiters, seed=seed).run()
    assert all(waiter.charged_us is not None for waiter in waiters)
    assert in_order(waiters)
    charges = [(waiter.charged_us, waiter.tokens) for waiter in waiters]
    assert worst_window(charges, WINDOW_MS) <= 100
    assert worst_window([(at, 1) for at, _ in charges], WINDOW_MS) <= 8
    assert not user.clients[0].exists(*user.queue), "nobody waits any more"


def test_nobody_waits_longer_than_the_line_takes(clients: list[Redis]):
    """One after the other, each as soon as its turn and the budget allow, but for some ms of politeness."""
    user = LimitsUser(*clients, budgets=[(100, WINDOW_MS), (1000, WINDOW_MS)])
    waiters = [Waiter(number, 50, number) for number in range(12)]
    Queue(user, waiters, seed=1, network_ms=0.0).run()
    for waiter in waiters:
        generation = waiter.number // 2
        late_ms = (waiter.charged_us - START_US) / MS - generation * WINDOW_MS
        assert late_ms <= 60 * (generation + 1), waiter


def test_waiting_costs_few_commands(clients: list[Redis]):
    """A look every two seconds, and one or two more when a turn comes."""
    user, waiters = LimitsUser(*clients, budgets=BUDGETS), crowd(random.Random(5), 40, within_ms=500)
    Queue(user, waiters, seed=5).run()
    for waiter in waiters:
        waited_ms = (waiter.charged_us - START_US) / MS - waiter.arrives_ms
        windows = waited_ms / WINDOW_MS
        assert waiter.asked <= 2 + waited_ms / (LONGEST_MS * 0.7) + 4 * windows + 2, waiter


def test_a_large_operation_is_not_starved_by_small_ones(clients: list[Redis]):
    user = LimitsUser(*clients, budgets=[(100, WINDOW_MS), (1000, WINDOW_MS)])
    user.acquire(START_US, [60, 1], "before")
    large = Waiter(0, 100, 1)
    small = [Waiter(1 + number, 10, 2 + 20 * number) for number in range(100)]
    Queue(user, [large, *small], seed=2).run()
    assert in_order([large, *small])
    assert large.charged_us <= START_US + (WINDOW_MS + 10) * MS


@pytest.mark.parametrize("seed", range(3))
def test_who_dies_blocks_the_others_for_a_moment(clients: list[Redis], seed: int):
    chance = random.Random(seed)
    user, waiters = LimitsUser(*clients, budgets=BUDGETS), crowd(chance, 24)
    for waiter in chance.sample(waiters, 8):
        waiter.dies_after = chance.randrange(1, 3)
    Queue(user, waiters, seed=seed).run()
    living = [waiter for waiter in waiters if waiter.dies_after > 3]
    assert all(waiter.charged_us is not None for waiter in living)
    assert in_order(waiters)

    user = LimitsUser(*clients, budgets=BUDGETS)
    user.acquire(START_US, [100, 1], "before")
    dead, behind = Waiter(0, 100, 1, dies_after=1), Waiter(1, 100, 2)
    Queue(user, [dead, behind], seed=seed).run()
    assert behind.charged_us <= START_US + (WINDOW_MS + LONGEST_MS + GRACE_MS) * MS


def test_who_gives_up_blocks_nobody(clients: list[Redis]):
    user = LimitsUser(*clients, budgets=BUDGETS)
    user.acquire(START_US, [100, 1], "before")
    impatient = [Waiter(number, 100, 1 + number, patience_ms=1000) for number in range(5)]
    behind = Waiter(9, 100, 10)
    Queue(user, [*impatient, behind], seed=3).run()
    assert all(waiter.charged_us is None for waiter in impatient)
    assert behind.charged_us <= START_US + (WINDOW_MS + 10) * MS
    assert not user.leave(behind.name, 100)


@pytest.fixture(params=["valkey9", "redis8", "redis7", "fakeredis"])
def anywhere(request: pytest.FixtureRequest, servers: Servers) -> Iterator[LimitsUser]:
    if request.param == "fakeredis":
        yield LimitsUser(fakeredis.FakeRedis(), budgets=BUDGETS)
        return
    if request.param not in servers:
        pytest.skip(f"{request.param} is not at hand: see the header of the report")
    with servers[request.param].client() as client:
        yield LimitsUser(client, budgets=BUDGETS)


def test_an_answer_that_was_lost_is_given_again(anywhere: LimitsUser):
    name = "waiter 000000001"
    assert anywhere.wait_turn(START_US, [60, 1], name, by_request=2)[1].admitted == 1
    sleep_ms, again = anywhere.wait_turn(START_US + MS, [60, 1], name, by_request=2)
    assert (sleep_ms, again.admitted, again.remaining) == (0, 2, (40, 7))
    sleep_ms, other = anywhere.wait_turn(START_US + MS, [60, 1], "waiter 000000002", by_request=2)
    assert (sleep_ms, other.admitted, other.retry_after_ms) == (2000, 0, WINDOW_MS - 1)
    assert anywhere.leave("waiter 000000002", 60)
    assert anywhere.wait_turn(START_US + MS, [40, 1], "waiter 000000003", by_request=2)[1].admitted == 1


def test_nobody_passes_one_whose_turn_has_come(anywhere: LimitsUser):
    first, second = "waiter 000000001", "waiter 000000002"
    anywhere.acquire(START_US, [100, 1], "before")
    assert anywhere.wait_turn(START_US + MS, [60, 1], first, by_request=2)[0] == 2000
    due = START_US + WINDOW_MS * MS
    for at in range(START_US + 2000 * MS, due, 1000 * MS):
        anywhere.wait_turn(at, [60, 1], first, by_request=2)
    sleep_ms, answer = anywhere.wait_turn(due, [20, 1], second, by_request=2)
    assert answer.admitted == 0, "although there is room for both"
    assert 1 <= sleep_ms <= 20
    assert anywhere.wait_turn(due + MS, [60, 1], first, by_request=2)[1].admitted
    assert anywhere.wait_turn(due + sleep_ms * MS, [20, 1], second, by_request=2)[1].admitted


def test_a_clock_that_was_hours_ahead_is_repaired_by_who_waits(server: Server):
    with server.client() as client:
        user = LimitsUser(client, budgets=BUDGETS)
        user.acquire(START_US + 3_600_000_000, [100, 1], "ahead")
        for at_ms in (0, 1000):
            _, answer = user.wait_turn(START_US + at_ms * MS, [1, 1], "waiter 000000001", by_request=2)
            assert (answer.admitted, answer.retry_after_ms) == (0, WINDOW_MS - at_ms)


def test_hundreds_of_dead_waiters_let_nobody_pass(server: Server):
    with server.client() as client:
        user, first, second = LimitsUser(client, budgets=BUDGETS), "first 0000000000", "second 000000000"
        user.acquire(START_US, [100, 1], "before")
        for number in range(300):
            user.wait_turn(START_US + MS, [1, 1], f"dead {number:011}", by_request=2)
        for at_ms in (1, 2500):
            user.wait_turn(START_US + at_ms * MS, [50, 1], first, by_request=2)
        user.wait_turn(START_US + 2500 * MS, [60, 1], second, by_request=2)
        user.reset()
        at = START_US + 3200 * MS
        assert user.wait_turn(at, [60, 1], second, by_request=2)[1].admitted == 0, "somebody who lives is before it"
        assert user.wait_turn(at, [50, 1], first, by_request=2)[1].admitted == 1


def test_a_clock_that_steps_back_blocks_nobody_behind_a_dead_waiter(anywhere: LimitsUser):
    """Nor do those who live lose their places."""
    first, dead, second = (f"waiter {number:09}" for number in range(3))
    anywhere.wait_turn(START_US, [100, 1], "waiter 000000009", by_request=2)
    for name in (first, dead, second):
        anywhere.wait_turn(START_US + MS, [100, 1], name, by_request=2)
    back = START_US - 3_600_000_000
    assert anywhere.wait_turn(back, [100, 1], second, by_request=2)[1].admitted == 0
    for at_ms in range(1000, WINDOW_MS, 1000):
        for name in (second, first):
            assert anywhere.wait_turn(back + at_ms * MS, [100, 1], name, by_request=2)[1].admitted == 0
    due = back + WINDOW_MS * MS
    assert anywhere.wait_turn(due, [100, 1], second, by_request=2)[1].admitted == 0
    assert anywhere.wait_turn(due, [100, 1], first, by_request=2)[1].admitted == 1
    for at_ms in range(1000, WINDOW_MS + 1, 1000):
        answer = anywhere.wait_turn(due + at_ms * MS, [100, 1], second, by_request=2)[1]
    assert answer.admitted == 1


def test_a_queue_ends_by_itself(server: Server):
    with server.client() as client:
        user = LimitsUser(client, budgets=BUDGETS)
        user.acquire("", [100, 1], "before")
        user.wait_turn("", [1, 1], "waiter 000000001", by_request=2)
        user.wait_turn("", [1, 1], "waiter 000000002", longest_ms=1, by_request=2)
        assert all(LONGEST_MS + 500 < client.pttl(key) <= LONGEST_MS + GRACE_MS + 1000 for key in user.queue)
