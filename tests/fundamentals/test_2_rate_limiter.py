"""The rate limiter, one idea at a time. Read from top to bottom.

A user has a budget of tokens. It is spent by charges, and each charge comes back exactly one window after it was made.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import wait_until

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import BudgetLeases, RateLimitConfig, RateLimitParent, RedisOptions, RedisRateLimiter


@pytest.fixture
def limiter(any_server):
    return RedisRateLimiter(url=any_server.url, config=RateLimitConfig(max_tokens_per_minute=5_000))


def test_a_charge_is_taken_from_the_budget(limiter):
    assert limiter.get_remaining("u-42") == 5_000
    assert limiter.check_and_consume("u-42", 200)
    assert limiter.get_remaining("u-42") == 4_800


def test_every_user_has_a_budget_of_their_own(limiter):
    limiter.check_and_consume("u-42", 5_000)
    assert limiter.get_remaining("u-42") == 0
    assert limiter.get_remaining("u-43") == 5_000


def test_a_refusal_charges_nothing(limiter):
    limiter.check_and_consume("u-42", 4_000)
    assert not limiter.check_and_consume("u-42", 1_001)
    assert limiter.check_and_consume("u-42", 1_000), "what is left can still be spent"


def test_a_decision_says_more_than_yes_or_no(limiter):
    limiter.consume("u-42", 4_000)
    decision = limiter.consume("u-42", 2_000)
    assert not decision
    assert (decision.allowed, decision.limit, decision.remaining) == (False, 5_000, 1_000)
    assert decision.violated == "tokens_per_window"
    assert 0.0 < decision.retry_after_seconds <= decision.reset_after_seconds


def test_what_is_larger_than_the_budget_can_never_pass(limiter):
    decision = limiter.consume("u-42", 5_001)
    assert (decision.allowed, decision.retry_after_seconds) == (False, math.inf)


def test_peek_asks_without_charging(limiter):
    assert limiter.peek("u-42", 5_000).allowed
    assert limiter.get_remaining("u-42") == 5_000


def test_a_charge_comes_back_one_window_later(any_server):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.1)
    limiter = RedisRateLimiter(url=any_server.url, config=config)
    assert limiter.check_and_consume("u-42", 100)
    assert not limiter.check_and_consume("u-42", 100)
    wait_until(lambda: limiter.check_and_consume("u-42", 100), what="the end of the window")


def test_a_request_that_is_sent_twice_is_charged_once(limiter):
    for _ in range(2):
        assert limiter.consume("u-42", 1_000, request_id="request-1").allowed
    assert limiter.get_remaining("u-42") == 4_000


def test_replicas_and_threads_spend_one_budget(any_server):
    config = RateLimitConfig(max_tokens_per_minute=1_000)
    replicas = [RedisRateLimiter(url=any_server.url, config=config) for _ in range(4)]
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda number: replicas[number % 4].check_and_consume("u-42", 100), range(64))
    assert sum(answers) == 10


def test_several_limits_hold_together(any_server):
    config = RateLimitConfig(max_tokens_per_minute=1_000, max_requests_per_minute=2, max_tokens_per_day=1_500)
    limiter = RedisRateLimiter(url=any_server.url, config=config)
    assert limiter.consume("u-42", 1_001).violated == "tokens_per_window"
    assert limiter.consume("u-42", 400).allowed
    assert limiter.consume("u-42", 400).allowed
    assert limiter.consume("u-42", 1).violated == "requests_per_minute"


def test_an_organisation_may_have_limits_too(any_server, limiter):
    acme = RateLimitParent("acme", RateLimitConfig(max_tokens_per_minute=6_000, key_prefix="organisations"))
    assert limiter.consume("u-42", 4_000, parents=[acme]).allowed
    assert limiter.consume("u-43", 4_000, parents=[acme]).violated == "parents[0].tokens_per_window"
    assert limiter.get_remaining("u-43") == 5_000, "all or nothing"


def test_an_estimate_is_reserved_and_settled_to_what_was_used(limiter):
    with limiter.reserve("u-42", 2_000) as reservation:
        assert limiter.get_remaining("u-42") == 3_000
        reservation.settle(700)
    assert limiter.get_remaining("u-42") == 4_300


def test_what_was_used_beyond_the_estimate_is_charged(limiter):
    with limiter.reserve("u-42", 2_000) as reservation:
        reservation.settle(5_500)
    assert limiter.get_remaining("u-42") == 0


def test_an_unsettled_reservation_keeps_its_charge_and_a_cancelled_one_does_not(limiter):
    with limiter.reserve("u-42", 1_000):
        pass
    with limiter.reserve("u-42", 1_000) as reservation:
        reservation.cancel()
    assert limiter.get_remaining("u-42") == 4_000


def test_a_refused_reservation_raises_when_it_is_entered(limiter):
    with pytest.raises(RateLimitExceeded) as refused, limiter.reserve("u-42", 5_001):
        pass
    assert refused.value.decision.retry_after_seconds == math.inf


def test_so_many_may_be_under_way_at_one_time(any_server):
    limiter = RedisRateLimiter(url=any_server.url, config=RateLimitConfig(max_concurrent=1))
    with limiter.reserve("u-42", 100):
        assert limiter.reserve("u-42", 100).decision.violated == "concurrent"
    assert limiter.reserve("u-42", 100).decision.allowed


def test_several_operations_take_one_round_trip(limiter):
    decisions = limiter.consume_many([("u-42", 3_000), ("u-42", 3_000), ("u-43", 3_000)])
    assert sorted(decision.allowed for decision in decisions) == [False, True, True]


def test_who_waits_is_served_as_soon_as_the_budget_allows(any_server):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.1)
    limiter = RedisRateLimiter(url=any_server.url, config=config)
    limiter.consume("u-42", 100)
    assert limiter.wait("u-42", 100, timeout_seconds=5.0).allowed


def test_a_busy_process_may_spend_slices_and_the_budget_holds(any_server):
    config, leases = RateLimitConfig(max_tokens_per_minute=1_000), BudgetLeases(share=0.1)
    replicas = [RedisRateLimiter(url=any_server.url, config=config, budget_leases=leases) for _ in range(2)]
    admitted = sum(replicas[number % 2].check_and_consume("u-42", 10) for number in range(200))
    assert 0 < 10 * admitted <= 1_000


def test_reset_gives_the_budget_back(limiter):
    limiter.check_and_consume("u-42", 5_000)
    limiter.reset("u-42")
    assert limiter.get_remaining("u-42") == 5_000


def test_a_refusal_in_an_outage_is_a_choice():
    nobody_there, briefly = "redis://localhost:1/0", RedisOptions(timeout_seconds=0.1)
    strict = RedisRateLimiter(url=nobody_there, options=briefly, on_outage="deny")
    generous = RedisRateLimiter(url=nobody_there, options=briefly, on_outage="allow")
    assert not strict.check_and_consume("u-42", 1)
    decision = generous.consume("u-42", 1)
    assert decision.allowed
    assert decision.degraded, "decided without Redis, and outside its guarantee"
