"""What every face of the rate limiter promises, on every server."""

from __future__ import annotations

import math
from enum import IntEnum

import pytest
from secrecy import SECRET_USER
from servers import wait_until

from ractogateway.redis import RateLimitConfig

AWKWARD_IDS = [
    SECRET_USER,
    "{",
    "}",
    "{}",
    "*",
    "a:b",
    "?[x]",
    "\ud800",
    "\udfff",
    "日本",
    "x" * 5_000,
    " ",
    "\x00",
    "1",
]


def test_a_budget_is_spent_and_not_overspent(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000))
    assert limiter.get_remaining(SECRET_USER) == 1_000
    assert limiter.check_and_consume(user_id=SECRET_USER, tokens=600) is True
    assert limiter.check_and_consume(SECRET_USER, 401) is False
    assert limiter.get_remaining(SECRET_USER) == 400
    assert limiter.check_and_consume(SECRET_USER, 400) is True
    assert limiter.check_and_consume(SECRET_USER) is False
    assert limiter.get_remaining(SECRET_USER) == 0


def test_tokens_may_be_any_int(make):
    size = IntEnum("Size", {"LARGE": 600})
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000), on_outage="raise")
    assert limiter.consume(SECRET_USER, size.LARGE).remaining == 400
    assert limiter.reserve("v", size.LARGE).settle(size.LARGE)
    assert [each.allowed for each in limiter.consume_many([("w", size.LARGE), ("w", size.LARGE)])].count(True) == 1
    assert limiter.get_remaining("v") == 400


def test_users_have_budgets_of_their_own(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000))
    for number, user in enumerate(AWKWARD_IDS, start=1):
        assert limiter.check_and_consume(user, number)
    assert [limiter.get_remaining(user) for user in AWKWARD_IDS] == [1_000 - n for n in range(1, len(AWKWARD_IDS) + 1)]


def test_a_prefix_and_an_id_do_not_run_into_each_other(make):
    outer = make("limiter", config=RateLimitConfig(key_prefix="app", max_tokens_per_minute=10))
    inner = make("limiter", config=RateLimitConfig(key_prefix="app:x", max_tokens_per_minute=10))
    outer.check_and_consume("x:y", 10)
    assert inner.get_remaining("y") == 10


def test_reset_gives_one_user_the_budget_back(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    for user in ("*", "u-1", "u-2"):
        limiter.check_and_consume(user, 100)
    limiter.reset("*")
    assert [limiter.get_remaining(user) for user in ("*", "u-1", "u-2")] == [100, 0, 0]


def test_the_window_slides(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.3))
    assert limiter.check_and_consume(SECRET_USER, 100)
    refused = limiter.consume(SECRET_USER, 100)
    assert not refused.allowed
    assert 0 < refused.retry_after_seconds <= 0.302  # stored times round up to the millisecond
    wait_until(lambda: limiter.check_and_consume(SECRET_USER, 100), timeout_seconds=2, what="the window's end")


def test_a_decision_tells_what_a_client_needs(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    passed = limiter.consume(SECRET_USER, 70)
    assert (passed.allowed, passed.limit, passed.remaining, passed.violated) == (True, 100, 30, None)
    assert passed.retry_after_seconds == 0.0
    assert 59 < passed.reset_after_seconds <= 60.001
    refused = limiter.consume(SECRET_USER, 31)
    assert (refused.allowed, refused.remaining, refused.degraded) == (False, 30, False)
    assert refused.violated is not None
    assert 59 < refused.retry_after_seconds <= 60.001
    assert bool(passed) is True
    assert bool(refused) is False


def test_a_cost_above_the_limit_is_refused_for_good(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    for cost in (101, 2**53 - 1):
        refused = limiter.consume(SECRET_USER, cost)
        assert (refused.allowed, refused.retry_after_seconds) == (False, math.inf)
    assert limiter.get_remaining(SECRET_USER) == 100


def test_peek_charges_nothing(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    limiter.consume(SECRET_USER, 40)
    assert limiter.peek(SECRET_USER, 60).allowed
    assert not limiter.peek(SECRET_USER, 61).allowed
    assert limiter.peek(SECRET_USER).remaining == 60


def test_a_request_id_is_charged_once(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    first = limiter.consume(SECRET_USER, 40, request_id="r-1")
    again = limiter.consume(SECRET_USER, 40, request_id="r-1")
    assert first.allowed
    assert again.allowed
    assert limiter.get_remaining(SECRET_USER) == 60
    assert limiter.consume(SECRET_USER, 40, request_id="r-2").remaining == 20
    assert limiter.consume("other", 40, request_id="r-1").remaining == 60


def test_a_refused_request_id_may_try_again(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    limiter.consume(SECRET_USER, 100)
    assert not limiter.consume(SECRET_USER, 10, request_id="r").allowed
    limiter.reset(SECRET_USER)
    assert limiter.consume(SECRET_USER, 10, request_id="r").allowed
    assert limiter.get_remaining(SECRET_USER) == 90


@pytest.mark.parametrize("budget", [1, 2**53 - 1])
def test_budgets_at_the_ends_of_the_range(make, budget):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=budget))
    assert limiter.check_and_consume(SECRET_USER, budget)
    assert not limiter.check_and_consume(SECRET_USER, 1)
    assert limiter.get_remaining(SECRET_USER) == 0


def test_nothing_is_left_behind_for_ever(make, expiring_keys):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100))
    limiter.consume(SECRET_USER, 40, request_id="r-1")
    limiter.consume(SECRET_USER, 70)
    if "fake" not in make.face:
        expiring_keys()
