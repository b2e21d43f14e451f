"""The rate limiter, one idea at a time. Read from top to bottom.

A user has a budget of tokens. It is spent by charges, and each charge comes back exactly one window after it was made.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import wait_until

from ractogateway.redis import RateLimitConfig, RedisOptions, RedisRateLimiter


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
