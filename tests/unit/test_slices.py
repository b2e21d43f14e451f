"""Slices of budgets as this process keeps them."""

from __future__ import annotations

from ractogateway.redis._limiter.slices import Slices
from ractogateway.redis.keys import LimiterKeys


def test_a_slice_that_was_asked_for_before_a_reset_is_not_spent_after_it():
    slices, keys = Slices(1.0, 100), LimiterKeys.of("p", "u")

    def asked_again(now: float) -> int:
        assert slices.may_take(keys, now) is None, "seldom"
        generation = slices.may_take(keys, now + 0.1)
        assert generation is not None
        return generation

    before = asked_again(10.0)
    slices.forget(keys)
    after = asked_again(10.2)
    slices.took(keys, before, 10.1, 50, 0)
    assert slices.spend(keys, 1, 10.4) is None
    assert slices.may_take(keys, 10.4) is None, "somebody is asking still"
    slices.took(keys, after, 10.3, 50, 0)
    assert slices.spend(keys, 1, 10.4) == 49
