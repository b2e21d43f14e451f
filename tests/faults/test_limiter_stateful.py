"""Several clients on the same limits against a model, while replies get lost, callers give up, scripts are forgotten,
the server dies and its data is flushed: what is charged, refunded and held is what the model says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from stage import CLIENT, Stage, play, staged
from windows_model import ExactLimits

from ractogateway.redis import AsyncRedisRateLimiter, RateLimitConfig, RedisRateLimiter

USERS = ("u", "v")
BUDGET, DAY, SLOTS = 100, 150, 2
HOUR_MS, DAY_MS, LEASE_MS = 3_600_000, 86_400_000, 600_000
NOW_US = 10**15  # of the model, whose time stands: no window ends while this is played

USER = st.sampled_from(USERS)
TOKENS = st.integers(1, 60)


@dataclass
class Held:
    """A reservation that is not settled yet; `forgotten` by the server, it is held on to all the same."""

    user: str
    tokens: int
    reservation: Any
    forgotten: bool = False


class LimiterUnderFire(Stage):
    def __init__(self) -> None:
        super().__init__()
        config = RateLimitConfig(
            max_tokens_per_minute=BUDGET, window_seconds=HOUR_MS / 1000, max_tokens_per_day=DAY, max_concurrent=SLOTS
        )
        self.enter(RedisRateLimiter, AsyncRedisRateLimiter, config=config, on_outage="raise")
        self.models = {user: ExactLimits([(BUDGET, HOUR_MS), (DAY, DAY_MS)], SLOTS) for user in USERS}
        self.known: dict[str, tuple[str, int, bool]] = {}  # of a name: whose, tokens, whether it is a reservation
        self.held: dict[str, Held] = {}

    # What clients do

    @rule(client=CLIENT, user=USER, tokens=TOKENS, named=st.booleans())
    def consume(self, client, user, tokens, named) -> None:
        name = f"operation {next(self.numbers)}"
        # Without a name only a client that repeats itself knows in the end whether it was charged.
        request_id = {"request_id": name} if named or client == 2 else {}
        decision = self.insist(lambda: self.clients[client].consume(user, tokens, **request_id))
        assert decision.allowed == self.charged(user, tokens, name)
        if request_id:
            self.known[name] = (user, tokens, False)

    @precondition(lambda self: self.known)
    @rule(client=CLIENT, which=st.randoms(use_true_random=False))
    def say_again(self, client, which) -> None:
        """What was admitted is admitted again, and charged once; what was cancelled is charged anew."""
        name = which.choice(sorted(self.known))
        user, tokens, reserved = self.known[name]
        if reserved:
            self.reserve_under(client, user, tokens, name)
        else:
            decision = self.insist(lambda: self.clients[client].consume(user, tokens, request_id=name))
            assert decision.allowed == self.charged(user, tokens, name)

    @rule(client=CLIENT, user=USER, tokens=TOKENS)
    def reserve(self, client, user, tokens) -> None:
        self.reserve_under(client, user, tokens, f"reservation {next(self.numbers)}")

    def reserve_under(self, client, user, tokens, name) -> None:
        reservation = self.insist(lambda: self.clients[client].reserve(user, tokens, request_id=name))
        answer = self.models[user].acquire(NOW_US, [tokens, tokens], name, LEASE_MS)
        assert reservation.decision.allowed == bool(answer.admitted)
        self.known[name] = (user, tokens, True)
        if answer.admitted in (1, 2):
            self.held[name] = Held(user, tokens, reservation)

    @precondition(lambda self: self.held)
    @rule(which=st.randoms(use_true_random=False), used=st.integers(0, 90), cancel=st.booleans())
    def close(self, which, used, cancel) -> None:
        name = which.choice(sorted(self.held))
        held, actual = self.held.pop(name), 0 if cancel else used
        self.insist(held.reservation.cancel if cancel else partial(held.reservation.settle, used))
        model = self.models[held.user]
        if not held.forgotten:
            model.settle(NOW_US, [actual, actual], name, cancelled=cancel)
        elif actual > held.tokens:  # nothing is given back of what nobody knows; what was used beyond it is charged
            for window in model.windows:
                window.charge(NOW_US, actual - held.tokens)

    @rule(user=USER, tokens=TOKENS, ticks=st.integers(0, 30))
    def give_up(self, user, tokens, ticks) -> None:
        """A caller is cancelled somewhere on the way, and says the same again."""
        name = f"given up {next(self.numbers)}"
        self.leave(partial(self.core.consume, user, tokens, request_id=name), ticks)
        decision = self.insist(lambda: self.clients[1].consume(user, tokens, request_id=name))
        assert decision.allowed == self.charged(user, tokens, name)
        self.known[name] = (user, tokens, False)

    @rule(client=CLIENT, user=USER)
    def reset(self, client, user) -> None:
        self.insist(lambda: self.clients[client].reset(user))
        self.models[user].reset()

    # What happens to them

    @rule()
    def flush(self) -> None:
        """The server forgets charges, slots and names. Who holds a reservation settles it all the same."""
        self.server.flush()
        for model in self.models.values():
            model.reset()
            model.operations.clear()
        # Its name may be used anew, for an operation that has nothing to do with it.
        self.held = {f"{next(self.numbers)}, forgotten": each for each in self.held.values()}
        for each in self.held.values():
            each.forgotten = True
        self.known = {}

    # What holds at any time

    @invariant()
    def what_remains_is_what_the_model_says(self) -> None:
        for user, model in self.models.items():
            room = min(model.peek(NOW_US, [0, 0]).remaining)
            assert self.direct.get_remaining(user) == room
            assert self.direct.peek(user, 30).allowed == bool(model.peek(NOW_US, [30, 30]).admitted)

    def charged(self, user: str, tokens: int, name: str) -> bool:
        """What the model decides of an operation that takes no slot."""
        model = self.models[user]
        slots, model.slots = model.slots, None
        try:
            return bool(model.acquire(NOW_US, [tokens, tokens], name, LEASE_MS).admitted)
        finally:
            model.slots = slots


@pytest.fixture(scope="module")
def machine() -> Iterator[type[Stage]]:
    with staged(LimiterUnderFire) as ready:
        yield ready


@pytest.mark.cell("reply lost", "limiter", "blocking")
@pytest.mark.timeout(300)
def test_the_limiter_does_what_the_model_does(machine, long_run, figures):
    examples = 60 if long_run else 15
    play(machine, examples=examples, steps=40)
    figures("limiter", note=f"{examples} random histories of 40 steps as the model has them")
