"""Slices of budgets as this process keeps them."""

from __future__ import annotations

from probing import run_script

from ractogateway.redis._limiter.slices import Slices
from ractogateway.redis.keys import LimiterKeys


def test_a_slice_is_spent_for_as_long_as_it_is_held_counted_from_the_question():
    slices, keys = Slices(1.0, 100), LimiterKeys.of("p", "u")
    slices.may_take(keys, 10.0)
    slices.took(keys, slices.may_take(keys, 10.1), 10.1, 50, 0)
    assert slices.spend(keys, 20, 11.0) == 30
    assert slices.spend(keys, 1, 11.1) is None


def test_a_forked_child_does_not_spend_its_parents_slices():
    source = """
        from ractogateway.redis._limiter.slices import Slices
        from ractogateway.redis.keys import LimiterKeys

        slices, keys = Slices(1.0, 100), LimiterKeys.of("p", "u")
        slices.may_take(keys, 10.0)
        slices.took(keys, slices.may_take(keys, 10.1), 10.1, 50, 0)
        pid = os.fork()
        if pid == 0:
            os._exit(slices.spend(keys, 1, 10.2) is not None)
        assert os.waitpid(pid, 0)[1] == 0, "spent twice"
        assert slices.spend(keys, 1, 10.2) == 49
    """
    run_script(source, "redis://nobody.is.asked")


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
