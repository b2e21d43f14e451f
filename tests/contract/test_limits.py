"""What every face of the rate limiter promises of several limits, parents, batches and waiting, on every server."""

from __future__ import annotations

import math
import time

from secrecy import SECRET_USER
from servers import wait_until

from ractogateway.redis import BudgetLeases, RateLimitCharge, RateLimitConfig, RateLimitParent

TOKENS = RateLimitConfig(max_tokens_per_minute=1_000)
ALL = RateLimitConfig(max_tokens_per_minute=1_000, max_requests_per_minute=3, max_tokens_per_day=1_500)


def test_an_operation_is_charged_to_all_limits_or_to_none(make):
    limiter = make("limiter", config=ALL, on_outage="raise")
    assert limiter.consume(SECRET_USER, 600).remaining == 400
    refused = limiter.consume(SECRET_USER, 401)
    assert (refused.allowed, refused.violated, refused.remaining) == (False, "tokens_per_window", 400)
    assert limiter.consume(SECRET_USER, 100).allowed
    assert limiter.peek(SECRET_USER, 300).allowed
    assert limiter.consume(SECRET_USER, 100).allowed
    refused = limiter.consume(SECRET_USER, 1)
    assert (refused.allowed, refused.violated, refused.remaining) == (False, "requests_per_minute", 200)
    assert 59 < refused.retry_after_seconds <= 60.001
    assert (limiter.peek(SECRET_USER).allowed, limiter.peek(SECRET_USER).violated) == (False, "requests_per_minute")


def test_the_day_is_a_limit_of_its_own(make):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.05, max_tokens_per_day=150)
    limiter = make("limiter", config=config, on_outage="raise")
    assert limiter.consume(SECRET_USER, 100).allowed
    wait_until(lambda: limiter.consume(SECRET_USER, 40).allowed, what="the end of the window")
    refused = limiter.consume(SECRET_USER, 20)
    assert (refused.violated, refused.remaining) == ("tokens_per_day", 10)
    assert refused.retry_after_seconds > 86_000
    assert limiter.get_remaining(SECRET_USER) == 10


def test_what_can_never_pass_is_said_to_be_so(make):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_day=500), on_outage="raise")
    for decide in (limiter.consume, limiter.peek, lambda *args: limiter.wait(*args, timeout_seconds=9)):
        refused = decide(SECRET_USER, 501)
        assert (refused.allowed, refused.retry_after_seconds, refused.violated) == (False, math.inf, "tokens_per_day")
    assert limiter.get_remaining(SECRET_USER) == 500


def test_a_request_id_is_charged_to_all_limits_once(make):
    limiter = make("limiter", config=ALL, on_outage="raise")
    for _ in range(5):
        assert limiter.consume(SECRET_USER, 500, request_id="r").allowed
    assert limiter.get_remaining(SECRET_USER) == 500
    assert limiter.consume(SECRET_USER, 1).allowed
    assert limiter.consume(SECRET_USER, 1).allowed


def test_reset_gives_every_limit_back(make):
    config = RateLimitConfig(max_requests_per_minute=1, max_tokens_per_day=10_000, max_concurrent=1)
    limiter = make("limiter", config=config, on_outage="raise")
    for _ in range(2):
        assert limiter.reserve(SECRET_USER, 10_000).decision.allowed
        assert not limiter.reserve(SECRET_USER, 1).decision.allowed
        limiter.reset(SECRET_USER)
    assert limiter.get_remaining(SECRET_USER) == 10_000


def test_many_at_once_are_decided_each_on_its_own(make):
    limiter = make("limiter", config=TOKENS, on_outage="raise")
    charges = [
        (SECRET_USER, 600),
        RateLimitCharge("v", 1_001),
        ("v", 1_000),
        RateLimitCharge(SECRET_USER, 400, request_id="r"),
        ("w",),
    ]
    decisions = limiter.consume_many(charges)
    assert [decision.allowed for decision in decisions] == [True, False, True, True, True]
    assert [decisions[place].remaining for place in (2, 4)] == [0, 999]
    assert sorted(decisions[place].remaining for place in (0, 3)) in ([0, 400], [0, 600])
    assert limiter.consume_many([RateLimitCharge(SECRET_USER, 400, request_id="r")])[0].allowed
    assert sum(decision.allowed for decision in limiter.consume_many([("x", 300)] * 5)) == 3
    assert limiter.consume_many([]) == []


PARENTS = ["org", RateLimitParent("model", RateLimitConfig(max_tokens_per_minute=700, key_prefix="models"))]


def test_parents_have_limits_too(make):
    limiter = make("limiter", config=TOKENS, on_outage="raise")
    assert limiter.consume("a", 600, parents=PARENTS).remaining == 100
    refused = limiter.consume("b", 200, parents=PARENTS)
    assert (refused.allowed, refused.violated, refused.remaining) == (False, "parents[1].tokens_per_window", 100)
    assert limiter.consume("b", 401, parents=["org"]).violated == "parents[0].tokens_per_window"
    assert [limiter.get_remaining(owner) for owner in ("a", "b", "org")] == [400, 1_000, 400], "all or nothing"
    reservation = limiter.reserve("b", 100, parents=PARENTS)
    assert reservation.settle(30)
    assert [limiter.get_remaining(owner) for owner in ("b", "org")] == [970, 370]
    models = make("limiter", config=PARENTS[1].config, on_outage="raise")
    assert models.get_remaining("model") == 70
    models.reset("model")
    assert limiter.consume_many([RateLimitCharge("c", 300, None, PARENTS), RateLimitCharge("c", 300, None, PARENTS)])[0]


def test_slots_of_parents(make):
    parents = [RateLimitParent("org", RateLimitConfig(max_concurrent=1, key_prefix="orgs"))]
    limiter = make("limiter", config=TOKENS, on_outage="raise")
    with limiter.reserve("a", 1, parents=parents):
        assert limiter.reserve("b", 1, parents=parents).decision.violated == "parents[0].concurrent"
        assert limiter.reserve("b", 1).decision.allowed
    assert limiter.reserve("b", 1, parents=parents).decision.allowed


def test_waiting_charges_as_soon_as_it_can(make):
    config = RateLimitConfig(max_tokens_per_minute=100, window_seconds=0.1, max_requests_per_minute=50)
    limiter = make("limiter", config=config, on_outage="raise")
    limiter.consume(SECRET_USER, 80)
    assert limiter.wait(SECRET_USER, 20, timeout_seconds=0).remaining == 0
    waited = limiter.wait(SECRET_USER, 80, timeout_seconds=9)
    assert (waited.allowed, waited.violated, waited.retry_after_seconds) == (True, None, 0.0)


def test_waiting_ends_with_its_time(make):
    limiter = make("limiter", config=TOKENS, on_outage="raise")
    limiter.consume(SECRET_USER, 1_000)
    began = time.monotonic()
    refused = limiter.wait(SECRET_USER, 1, timeout_seconds=0.03)
    assert time.monotonic() - began > 0.025
    assert (refused.allowed, refused.violated) == (False, "tokens_per_window")
    assert 55 < refused.retry_after_seconds <= 60.001
    limiter.reset(SECRET_USER)
    assert limiter.wait(SECRET_USER, 1_000, timeout_seconds=5).allowed, "the place in the queue was given up"


def test_slices_of_the_budget_are_spent_and_not_overspent(make):
    config, leases = RateLimitConfig(max_tokens_per_minute=1_000), BudgetLeases(seconds=1.0, share=0.1)
    limiter = make("limiter", config=config, budget_leases=leases, on_outage="raise")
    other = make("limiter", config=config, budget_leases=leases, on_outage="raise")
    allowed = 0
    for _ in range(150):
        allowed += 7 * sum(each.consume(SECRET_USER, 7).allowed for each in (limiter, other))
    assert 900 < allowed <= 1_000
    assert limiter.consume(SECRET_USER, 100).retry_after_seconds > 59
    limiter.reset(SECRET_USER)
    assert limiter.consume(SECRET_USER, 1_000).allowed
