"""The circuit breaker by itself: what opens it, for whom, and who finds out."""

from __future__ import annotations

import pytest

from ractogateway.errors import BreakerOpen, NotSent, StoreNotReady, StoreRefused
from ractogateway.redis.transport import plain_call
from ractogateway.redis.transport.breaker import Breaker

READ = plain_call(b"GET", (b"key",), (), bytes, replay_safe=True)
WRITE = plain_call(b"SET", (b"key",), (b"value",), bytes, replay_safe=True)
LOST, REFUSED = NotSent("lost"), StoreRefused("no", code="ERR")
A_REPLICA, FULL = StoreNotReady("now", code="READONLY"), StoreNotReady("now", code="OOM")
NEVER, AT_ONCE = 3600.0, 0.0


def fail(breaker: Breaker, error: BaseException, *calls, times: int = 1) -> None:
    for _ in range(times):
        breaker.ended_badly(error, *calls, probed=breaker.admit(*calls))


def is_open(breaker: Breaker, *calls) -> bool:
    try:
        for circuit in breaker.admit(*calls):
            circuit.forget_probe()
    except BreakerOpen:
        return True
    return False


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(3, NEVER, NEVER)


def test_an_outage_opens_it_for_everybody(breaker):
    fail(breaker, LOST, READ, times=2)
    assert not is_open(breaker, READ)
    fail(breaker, LOST, WRITE)
    assert is_open(breaker, READ)
    assert is_open(breaker, WRITE)


@pytest.mark.parametrize("error", [REFUSED, FULL], ids=["an error", "out of memory"])
def test_a_server_that_answers_at_once_is_asked_again(breaker, error):
    fail(breaker, LOST, WRITE, times=2)
    fail(breaker, error, WRITE, times=10)
    fail(breaker, LOST, WRITE, times=2)
    assert not is_open(breaker, WRITE)


def test_a_replica_opens_it_for_whoever_may_write(breaker):
    for _ in range(3):
        assert not is_open(breaker, WRITE)
        fail(breaker, A_REPLICA, WRITE)
        breaker.succeeded(READ)  # which a replica serves all the time
    assert is_open(breaker, WRITE)
    assert is_open(breaker, READ, WRITE)
    assert not is_open(breaker, READ)
    breaker.succeeded(WRITE)
    assert not is_open(breaker, WRITE)


def test_a_replica_that_goes_away_as_well(breaker):
    fail(breaker, A_REPLICA, WRITE, times=3)
    fail(breaker, LOST, READ, times=3)
    assert is_open(breaker, READ)
    breaker.succeeded(READ)
    assert not is_open(breaker, READ)
    assert is_open(breaker, WRITE)


def test_a_replica_that_says_so_is_there(breaker):
    fail(breaker, LOST, READ, times=2)
    fail(breaker, A_REPLICA, WRITE)
    fail(breaker, LOST, READ, times=2)
    assert not is_open(breaker, READ)


@pytest.mark.parametrize("error", [LOST, A_REPLICA], ids=["an outage", "a replica"])
def test_one_at_a_time_finds_out_and_whoever_leaves_makes_room(error):
    breaker = Breaker(1, AT_ONCE, NEVER)
    fail(breaker, error, WRITE)
    probed = breaker.admit(WRITE)
    assert probed
    assert is_open(breaker, WRITE)
    breaker.ended_badly(KeyboardInterrupt(), WRITE, probed=probed)
    probed = breaker.admit(WRITE)
    breaker.ended_badly(error, WRITE, probed=probed)
    probed = breaker.admit(WRITE)
    assert is_open(breaker, WRITE)
    breaker.succeeded(WRITE)
    assert breaker.admit(WRITE) == ()


def test_a_probe_of_writes_that_is_lost_opens_it_again():
    breaker = Breaker(1, AT_ONCE, NEVER)
    fail(breaker, A_REPLICA, WRITE)
    probed = breaker.admit(WRITE)
    breaker.ended_badly(LOST, WRITE, probed=probed)
    assert breaker.admit(WRITE), "nobody is let through any more"
