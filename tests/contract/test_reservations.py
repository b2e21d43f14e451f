"""What every face of the rate limiter promises of estimates that are settled later, on every server."""

from __future__ import annotations

import pytest
from servers import wait_until

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import RateLimitConfig


@pytest.fixture
def limiter(make):
    return make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000), on_outage="raise")


def test_what_was_not_used_is_given_back(limiter):
    reservation = limiter.reserve("u", 600)
    assert reservation.decision.allowed
    assert (reservation.tokens, reservation.decision.remaining, limiter.get_remaining("u")) == (600, 400, 400)
    assert reservation.settle(150) is True
    assert limiter.get_remaining("u") == 850
    assert limiter.peek("u", 850).allowed


def test_what_was_used_beyond_it_is_charged_whatever_the_limit_says(limiter):
    reservation = limiter.reserve("u", 600)
    limiter.consume("u", 400)
    assert reservation.settle(700)
    refused = limiter.consume("u", 1)
    assert (refused.allowed, refused.remaining) == (False, 0)


def test_the_first_of_settle_and_cancel_counts(limiter):
    settled, cancelled = limiter.reserve("u", 100), limiter.reserve("u", 200)
    assert [settled.settle(50), settled.settle(0), settled.cancel(), settled.settle(90)] == [True, False, False, False]
    assert [cancelled.cancel(), cancelled.settle(500), cancelled.cancel()] == [True, False, False]
    assert limiter.get_remaining("u") == 950


def test_a_cancelled_reservation_was_never_there(make):
    config = RateLimitConfig(max_tokens_per_minute=100, max_requests_per_minute=1, max_tokens_per_day=100)
    limiter = make("limiter", config=config, on_outage="raise")
    for _ in range(3):
        assert limiter.reserve("u", 100).cancel()
    assert limiter.reserve("u", 100).settle(0)
    assert limiter.get_remaining("u") == 100
    assert limiter.consume("u", 1).violated == "requests_per_minute", "work that used nothing was a request"


def test_a_block_that_is_left_keeps_the_charge(limiter):
    with limiter.reserve("u", 100) as reservation:
        assert reservation.decision.remaining == 900
    with pytest.raises(KeyError), limiter.reserve("u", 200):
        raise KeyError
    assert limiter.get_remaining("u") == 700
    assert reservation.settle(0) is False
    with limiter.reserve("u", 300) as settled:
        settled.settle(10)
    with limiter.reserve("u", 300) as cancelled:
        cancelled.cancel()
    assert limiter.get_remaining("u") == 690


def test_entering_a_refused_reservation_raises_its_decision(limiter):
    limiter.consume("u", 900)
    with pytest.raises(RateLimitExceeded) as caught, limiter.reserve("u", 200):
        pytest.fail("it was let in")
    decision = caught.value.decision
    assert (decision.allowed, decision.remaining, decision.violated) == (False, 100, "tokens_per_window")
    assert 59 < decision.retry_after_seconds <= 60.001
    assert "(tokens_per_window); retry after " in str(caught.value)
    refused = limiter.reserve("u", 200)
    assert [refused.decision.allowed, refused.settle(0), refused.cancel()] == [False, False, False]
    assert limiter.get_remaining("u") == 100


def test_without_a_block_a_refusal_is_no_error_and_a_reservation_is_as_true_as_its_decision(limiter):
    allowed, refused = limiter.reserve("u", 900), limiter.reserve("u", 200)
    assert (bool(allowed), bool(refused)) == (True, False)
    allowed.settle(0)
    assert allowed, "and stays so when it is settled"


def test_a_reservation_that_can_never_pass_says_so_instead_of_when_to_retry(limiter):
    with pytest.raises(
        RateLimitExceeded, match=r": a cost of 1,001 tokens is above tokens_per_window \(1,000\)"
    ) as caught:
        limiter.reserve("u", 1_001).__enter__()
    assert str(caught.value).endswith(", so no retry can help")
    assert caught.value.tokens == 1_001


def test_one_request_id_is_one_reservation(limiter):
    first = limiter.reserve("u", 400, request_id="r")
    again = limiter.reserve("u", 400, request_id="r")
    assert (again.decision.allowed, again.decision.remaining) == (True, 600)
    assert again.settle(100) is True
    assert first.settle(0) is False
    assert limiter.get_remaining("u") == 900
    assert limiter.reserve("u", 400, request_id="r").settle(0) is False
    assert limiter.get_remaining("u") == 900
    assert limiter.consume("u", 400, request_id="r").remaining == 500, "a charge of the same name is another operation"


def test_a_cancelled_request_id_may_be_used_anew(limiter):
    other = limiter.reserve("u", 400, request_id="r")
    assert limiter.reserve("u", 400, request_id="r").cancel()
    assert other.settle(900) is False, "cancelling came first"
    assert limiter.get_remaining("u") == 1_000
    anew = limiter.reserve("u", 300, request_id="r")
    assert (anew.decision.allowed, limiter.get_remaining("u")) == (True, 700)
    assert anew.settle(100)
    assert limiter.get_remaining("u") == 900


def test_a_stream_longer_than_the_window_refunds_nothing(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.1))
    reservation = limiter.reserve("u", 80)
    wait_until(lambda: limiter.check_and_consume("u", 90), what="the end of the window")
    assert reservation.settle(10) is True
    assert limiter.get_remaining("u") <= 10, "what it had charged was given back by the window"
    late = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000)).reserve("v", 100)
    assert late.settle(250)
    assert make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000)).get_remaining("v") == 750


@pytest.mark.cell("data flushed", "limiter")
@pytest.mark.parametrize("forgotten", ["flushed", "reset"])
def test_a_settlement_after_the_state_is_gone_touches_nobody_elses_charge(make, any_way, forgotten):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000), on_outage="raise")
    less, more, cancelled = (limiter.reserve("u", 100) for _ in range(3))
    if forgotten == "flushed":
        any_way.flush()
    else:
        limiter.reset("u")
    assert limiter.get_remaining("u") == 1_000
    less.settle(10)
    cancelled.cancel()
    assert limiter.get_remaining("u") == 1_000
    limiter.consume("u", 500)
    assert more.settle(110)
    assert limiter.get_remaining("u") == 490, "the overrun is charged when it is settled"


@pytest.fixture
def any_way(make, server):
    if "fake" in make.face:
        pytest.skip("this fake has a data set of its own")
    return server


@pytest.fixture
def slots(make):
    return make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000, max_concurrent=2), on_outage="raise")


def test_so_many_are_open_at_one_time(slots):
    first, second = slots.reserve("u", 1), slots.reserve("u", 1)
    refused = slots.reserve("u", 1)
    assert (refused.decision.allowed, refused.decision.violated) == (False, "concurrent")
    assert 590 < refused.decision.retry_after_seconds <= 600.001
    assert slots.get_remaining("u") == 998, "it was charged to no limit"
    assert slots.consume("u", 1).allowed, "slots bind reservations only"
    assert slots.reserve("other", 1).decision.allowed
    assert first.settle(1)
    third = slots.reserve("u", 1)
    assert third.decision.allowed
    second.cancel()
    with slots.reserve("u", 1), pytest.raises(RateLimitExceeded), slots.reserve("u", 1):
        pass
    assert slots.reserve("u", 1).decision.allowed, "a block that is left frees its slot"


def die(reservation):
    """As if its holder had died. (To forget it would do, but the portal of the async faces keeps it.)"""
    core = getattr(reservation, "_core", reservation)
    for heartbeat in core._heartbeats:
        heartbeat.stop()


def test_a_slot_is_held_beyond_its_lease_and_not_beyond_its_holder(slots):
    with slots.reserve("u", 1, lease_seconds=0.2) as held:
        abandoned = slots.reserve("u", 1, lease_seconds=0.2)
        assert not slots.reserve("u", 1).decision.allowed
        die(abandoned)
        wait_until(lambda: slots.reserve("u", 1, lease_seconds=600).decision.allowed, what="the end of the lease")
        assert not slots.reserve("u", 1).decision.allowed, "the other one was renewed"
        assert not held.slot_lost


def test_one_who_comes_back_under_the_same_name_has_a_slot_or_is_refused(make):
    one = RateLimitConfig(max_tokens_per_minute=1_000, max_concurrent=1)
    slots = make("limiter", config=one, on_outage="raise")
    crashed = slots.reserve("u", 1, request_id="job", lease_seconds=0.1)
    die(crashed)
    wait_until(lambda: slots.reserve("u", 2, request_id="other").decision.allowed, what="the end of the lease")
    assert slots.reserve("u", 1, request_id="job").decision.violated == "concurrent"
    assert slots.reserve("u", 2, request_id="other").settle(2)
    again = slots.reserve("u", 1, request_id="job")
    assert (again.decision.allowed, again.slot_lost) == (True, False)
    assert not slots.reserve("u", 1).decision.allowed
    late = slots.reserve("u", 2, request_id="other")
    assert (late.decision.allowed, late.slot_lost, late.settle(0)) == (True, True, False)


def test_a_slot_that_is_gone_is_noticed(slots):
    held = slots.reserve("u", 1, lease_seconds=0.1)
    slots.reset("u")
    wait_until(lambda: held.slot_lost, what="the next sign of life")
    assert held.settle(1)
